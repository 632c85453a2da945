"""What a class of optimizers does, tried on a tiny problem: signature, steps, learning rate, state, odd gradients.

The class is a user's code, so `examine` tries it in a process of its own with a time limit. That process writes one
line for each check that begins and one for each that has ended, so that a class that hangs or crashes is told where.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from optrepro.newcomers.target import Target
from optrepro.settings import one_line

Outcome = Literal["ok", "note", "warning", "fails"]
_fork = multiprocessing.get_context("fork")
LIMIT = 120.0  # seconds for all checks
STEPS = 6  # steps of most checks
DESCENT = 200  # steps in which the loss must have fallen
LARGER = 1024.0  # factor on the gradients that asks for scale; a power of two, which rounds nothing
SHOWN = 120  # characters of an error that a class raises
ALIKE = 0.01  # largest relative change of the way for a class that is scale-free


class Finding(NamedTuple):
    """A check, its outcome, and what it means for who uses the class."""

    check: str
    outcome: Outcome
    meaning: str


@dataclass(frozen=True)
class Report:
    """The findings, in the order of the checks.

    Attributes:
        findings: one for each check; after one that fails there are none.
        refused: why the class cannot run on ``functions`` or on ``networks``; without an entry it can.
        ignores_rate: whether its steps do not depend on the learning rate.
    """

    findings: tuple[Finding, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    ignores_rate: bool = False

    @property
    def failure(self) -> Finding | None:
        """The finding that makes the class unusable, if there is one."""
        return next((finding for finding in self.findings if finding.outcome == "fails"), None)


def examine(
    target: Target, settings: Mapping[str, Any] | None = None, rate: float | None = None, limit: float = LIMIT
) -> Report:
    """Try a class in a process of its own.

    Args:
        target: the class.
        settings: its keyword arguments without ``lr``.
        rate: learning rate of the trials; None: the default of the class, or 0.01.
        limit: seconds after which the process is ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "findings.jsonl")
        # Forked, because to import torch anew would take longer than the checks.
        importlib.import_module("torch._dynamo")  # the first step of any optimizer of torch would import it
        process = _fork.Process(target=_child, args=(target, dict(settings or {}), rate, out), daemon=True)
        process.start()
        process.join(limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            reason = f"it had not ended after {limit:g} s"
        else:
            reason = _why(process.exitcode)
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    findings = [Finding(**line["finding"]) for line in lines if "finding" in line]
    if summary := next((line["summary"] for line in lines if "summary" in line), None):
        return Report(tuple(findings), **summary)
    if any(finding.outcome == "fails" for finding in findings):
        return Report(tuple(findings))
    begun = next((line["begun"] for line in reversed(lines) if "begun" in line), "import")
    return Report((*findings, Finding(begun, "fails", one_line(reason))))


def table(report: Report) -> str:
    """The findings as lines of text: check, outcome, what it means."""
    width = max(len(finding.check) for finding in report.findings)
    lines = [f"{f.check:{width}}  {f.outcome:7}  {f.meaning}" for f in report.findings]
    return "\n".join(lines + [f"{'left out':{width}}  {what:9}  {why}" for what, why in report.refused.items()])


def _why(status: int) -> str:
    """Why there is no summary of a process that ended with this status."""
    return f"its process was ended by {signal.Signals(-status).name}" if status < 0 else f"it ended Python ({status})"


# --- In the process of its own ---------------------------------------------------------------------------------------


class _Writer:
    """Appends lines of JSON to a file, each at once, and remembers the check that has begun."""

    def __init__(self, path: Path):
        self.path, self.begun = path, ""

    def __call__(self, line: Mapping[str, Any]) -> None:
        self.begun = str(line.get("begun", self.begun))
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class _FailedError(Exception):
    """The class cannot be used; the message is the meaning of the finding."""


@dataclass
class _Subject:
    """A class with its settings, on the loss sum of curvature (w - target)^2 / 2 of two tensors.

    Attributes:
        cls, settings: the class and its keyword arguments without ``lr``.
        rate: learning rate of the trials; None if the class takes none.
        closure: whether its step needs a closure.
    """

    cls: type[torch.optim.Optimizer]
    settings: dict[str, Any]
    rate: float | None
    closure: bool = False

    def make(self, parameters: Any, rate: float | None = None, **more: Any) -> torch.optim.Optimizer:
        """An optimizer of the class, in training mode if it has modes."""
        settings = {**self.settings, **more}
        if self.rate is not None:
            settings["lr"] = self.rate if rate is None else rate
        torch.manual_seed(0)
        optimizer: torch.optim.Optimizer = self.cls(parameters, **settings)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    def step(self, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
        """One step: gradients and `step()`, or `step(closure)`."""
        if self.closure:
            optimizer.step(loss)  # type: ignore[arg-type]
        else:
            loss()
            optimizer.step()

    def way(
        self,
        steps: int = STEPS,
        rate: float | None = None,
        factor: float = 1.0,
        dtype: torch.dtype = torch.float32,
        **more: Any,
    ) -> list[Tensor]:
        """Where `steps` steps lead from the start, with gradients times `factor`."""
        parameters = _start(dtype)
        optimizer = self.make(parameters, rate, **more)
        for _ in range(steps):
            self.step(optimizer, _closure(parameters, factor))
        return [p.detach().clone() for p in parameters]


def _start(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The two tensors at the start, (3, 2) and (4,)."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((3, 2), (4,))
    ]


def _loss(parameters: Sequence[Tensor]) -> Tensor:
    curvatures = [torch.linspace(0.5, 2, p.numel(), dtype=p.dtype).view_as(p) for p in parameters]
    return torch.stack([(c * (p - 0.25) ** 2).sum() / 2 for c, p in zip(curvatures, parameters, strict=True)]).sum()


def _closure(parameters: Sequence[Tensor], factor: float = 1.0) -> Callable[[], Tensor]:
    def evaluate() -> Tensor:
        with torch.enable_grad():
            loss = factor * _loss(parameters)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters)), strict=True):
            parameter.grad = gradient
        return loss.detach()

    return evaluate


def _counted(closure: Callable[[], Tensor], calls: Counter[str]) -> Callable[[], Tensor]:
    """The closure, each of whose calls is counted."""

    def evaluate() -> Tensor:
        calls["closure"] += 1
        return closure()

    return evaluate


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether all bits are equal; NaN equals NaN."""
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))


def _moved(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Distance between two points."""
    return float(torch.stack([(a - b).norm() for a, b in zip(first, second, strict=True)]).norm())


def _child(target: Target, settings: dict[str, Any], rate: float | None, out: Path) -> None:
    """Try a class silently."""
    with open(os.devnull, "w") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    torch.set_num_threads(1)  # threads of the process that forked are missing here
    target.make_importable()
    _try(target, {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}, rate, _Writer(out))


def _try(target: Target, settings: dict[str, Any], rate: float | None, write: _Writer) -> None:
    """Write the findings, and after the last one the summary."""

    def ended(check: str, outcome: Outcome, meaning: str) -> None:
        write({"finding": Finding(check, outcome, one_line(meaning))._asdict()})

    refused: dict[str, str] = {}
    try:
        write({"begun": "import"})
        cls = _imported(target)
        ended("import", "ok", f"{target.path} is a torch.optim.Optimizer")
        write({"begun": "signature"})
        subject, meaning = _constructed(cls, settings, rate)
        ended("signature", "ok" if subject.rate is not None else "warning", meaning)
        write({"begun": "step"})
        meaning = _steps(subject, refused)
        ended("step", "warning" if len(refused) else "ok", meaning)
    except _FailedError as failed:
        write({"finding": Finding(write.begun, "fails", one_line(str(failed)))._asdict()})
        return
    ignores = False
    for check, function in CHECKS.items():
        write({"begun": check})
        try:
            outcome, meaning = function(subject)
        except Exception as error:
            outcome, meaning = "warning", f"raises {type(error).__name__}: {error}"
        ended(check, outcome, meaning)
        ignores |= check == "learning rate" and outcome == "warning"
    write({"summary": {"refused": refused, "ignores_rate": ignores}})


def _imported(target: Target) -> type[torch.optim.Optimizer]:
    module, _, name = target.path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise _FailedError(f"{module} cannot be imported: {type(error).__name__}: {error}") from None
    if found is None:
        raise _FailedError(f"{module} has no class {name}")
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise _FailedError(f"{name} is not a subclass of torch.optim.Optimizer")
    return found


def _constructed(
    cls: type[torch.optim.Optimizer], settings: dict[str, Any], rate: float | None
) -> tuple[_Subject, str]:
    """The subject, and what its signature means."""
    accepted = inspect.signature(cls).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    if unknown := [name for name in settings if name not in accepted and not any_name]:
        raise _FailedError(
            f"settings.{unknown[0]} is not an argument of {cls.__name__}; it takes {', '.join(accepted)}"
        )
    default = accepted["lr"].default if "lr" in accepted else None
    usual = float(default) if isinstance(default, int | float) and default > 0 else 0.01
    subject = _Subject(cls, settings, (rate or usual) if "lr" in accepted else None)
    try:
        subject.make(_start())
    except Exception as error:
        raise _FailedError(f"{cls.__name__}(params, lr, **settings) raises {type(error).__name__}: {error}") from None
    if subject.rate is None:
        return subject, "takes no lr, so that nothing is tuned and all runs of the grid are one"
    own = ", estimates its own step size that lr multiplies: tune lr around 1" if _own_rate(subject) else ""
    seed = ", is given the run's seed" if "seed" in accepted else ""
    return subject, f"takes parameters and lr{seed}{own}"


def _own_rate(subject: _Subject) -> bool:
    """Whether its groups hold the estimate that Prodigy and D-Adaptation call d."""
    return "d" in subject.make(_start()).param_groups[0]


def _steps(subject: _Subject, refused: dict[str, str]) -> str:
    """How the class steps; `refused` is filled with what cannot run it. Raises: _FailedError if it steps in no way."""
    cls = subject.cls
    if hasattr(cls, "first_step") and hasattr(cls, "second_step"):
        raise _FailedError(
            "steps in two parts, first_step and second_step, as SAM does: each step needs a second gradient elsewhere, "
            "which is twice everybody's budget"
        )
    errors = []
    for closure in (False, True):
        subject.closure = closure
        parameters, calls = _start(), Counter[str]()
        try:
            subject.step(subject.make(parameters), _counted(_closure(parameters), calls))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        if closure and not calls:
            if _takes_the_loss(subject):
                break
            raise _FailedError("step(closure) does not call the closure, and step() alone raises " + errors[0])
        return _manner(subject, calls.total(), refused)
    if _takes_the_loss(subject):
        raise _FailedError("its step takes the loss as a tensor, step(loss); give it an optional closure instead")
    raise _FailedError(f"step() raises {errors[0]}; step(closure) raises {errors[1]}")


def _manner(subject: _Subject, calls: int, refused: dict[str, str]) -> str:
    """In words how the class steps, after a step that called its closure so many times."""
    modes = "; it is switched between train() and eval()" if hasattr(subject.cls, "train") else ""
    if subject.closure:
        if getattr(subject.make(_start()), "needs", None) != "loss":
            refused["networks"] = (
                "its step needs a closure that evaluates the loss anew, as L-BFGS; networks are trained side by side, "
                "where one evaluation is all that a step has"
            )
        return f"step(closure), which it calls {calls} time{'' if calls == 1 else 's'} in a first step{modes}"
    parameters, counts = _start(torch.float64), Counter[str]()
    try:
        subject.make(parameters).step(_counted(_closure(parameters), counts))  # type: ignore[arg-type]
    except Exception as error:
        refused["functions"] = f"step(closure) on float64 raises {one_line(f'{type(error).__name__}: {error}', 120)}"
        return f"step() alone{modes}"
    if not counts:
        refused["functions"] = "step(closure) does not call its closure, as torch's optimizers do"
    return f"step(), with an optional closure{modes}"


def _takes_the_loss(subject: _Subject) -> bool:
    """Whether what its step needs is called a loss."""
    return "loss" in inspect.signature(subject.cls.step).parameters


Check = Callable[[_Subject], tuple[Outcome, str]]


def _descends(subject: _Subject) -> tuple[Outcome, str]:
    start = float(_loss(_start()))
    factors = (1.0, 0.1, 10.0) if subject.rate is not None else (1.0,)
    found = {f: float(_loss(subject.way(DESCENT, f * (subject.rate or 1)))) for f in factors}
    best = min((value for value in found.values() if value == value), default=float("inf"))
    if best < start:
        return "ok", f"the loss of a quadratic falls from {start:.3g} to {best:.3g} in {DESCENT} steps"
    return "warning", f"the loss of a quadratic does not fall in {DESCENT} steps: {start:.3g} at the start, {best:.3g}"


def _rate_matters(subject: _Subject) -> tuple[Outcome, str]:
    if subject.rate is None:
        return "warning", "there is none"
    if _same(subject.way(), subject.way(rate=subject.rate / 8)):
        return "warning", "is ignored: an eighth of it takes the same steps, so that tuning changes nothing"
    return "ok", "changes the steps"


def _schedule(subject: _Subject) -> tuple[Outcome, str]:
    parameters = _start()
    optimizer = subject.make(parameters)
    for step in range(2 * STEPS):
        if step == STEPS:
            before = [p.detach().clone() for p in parameters]
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        subject.step(optimizer, _closure(parameters))
    if _same(before, parameters):
        return "ok", "a learning rate that is set to 0 in the groups stops it, so schedules act"
    return (
        "warning",
        "a learning rate that is set to 0 in the groups does not stop it: schedules act late or not at all",
    )


def _groups(subject: _Subject) -> tuple[Outcome, str]:
    first, second = _start()
    if subject.rate is None:
        return "note", "not tried, because there is no lr"
    optimizer = subject.make([{"params": [first]}, {"params": [second], "lr": 0.0}])
    for _ in range(STEPS):
        subject.step(optimizer, _closure([first, second]))
    still, moved = torch.equal(second, _start()[1]), not torch.equal(first, _start()[0])
    if still and moved:
        return "ok", "each group has its own learning rate"
    return "warning", "the learning rate of a group of its own has no effect"


def _deterministic(subject: _Subject) -> tuple[Outcome, str]:
    state = torch.get_rng_state()
    first, second = subject.way(), subject.way()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    optimizer = subject.make(parameters := _start())
    subject.step(optimizer, _closure(parameters))
    draws = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(state)
    if not _same(first, second):
        return "warning", "two runs from the same seed differ: nothing can be repeated bit for bit"
    return (
        ("note", "equal seeds give equal bits; it draws from torch's global generator")
        if draws
        else (
            "ok",
            "two runs give the same bits",
        )
    )


def _resumes(subject: _Subject) -> tuple[Outcome, str]:
    whole, parameters = subject.way(2 * STEPS), _start()
    optimizer = subject.make(parameters)
    for _ in range(STEPS):
        subject.step(optimizer, _closure(parameters))
    file, generator = io.BytesIO(), torch.get_rng_state()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
    except Exception:
        return "warning", "its state_dict holds more than tensors and numbers: a checkpoint would have to be unpickled"
    again = [p.detach().clone().requires_grad_() for p in parameters]
    resumed = subject.make(again)
    resumed.load_state_dict(state)
    torch.set_rng_state(generator)
    for _ in range(STEPS):
        subject.step(resumed, _closure(again))
    if _same(whole, again):
        return "ok", "a run that is saved, loaded and resumed equals the uninterrupted one bit for bit"
    return "warning", f"a resumed run differs from the uninterrupted one by {_moved(whole, again):.2g}: state is lost"


def _without_gradient(subject: _Subject) -> tuple[Outcome, str]:
    parameters, idle = _start(), torch.ones(3, requires_grad=True)
    optimizer = subject.make([*parameters, idle])
    for _ in range(STEPS):
        subject.step(optimizer, _closure(parameters))
    if torch.equal(idle, torch.ones(3)):
        return "ok", "stays where it is"
    return "warning", "moves, as frozen layers would"


def _not_a_number(subject: _Subject) -> tuple[Outcome, str]:
    try:
        found = subject.way(2, factor=float("nan"))
    except Exception as error:
        return "note", f"raises {type(error).__name__}: {error}"
    if all(p.isfinite().all() for p in found):
        return "note", "parameters stay finite: it hides what has gone wrong, or recovers from it"
    return "ok", "shows in the parameters, so that a run counts as diverged"


def _odd(make: Callable[[], tuple[Tensor, Tensor]], what: str) -> Check:
    """A check that steps on a parameter with an odd gradient."""

    def check(subject: _Subject) -> tuple[Outcome, str]:
        parameter, gradient = make()

        def evaluate() -> Tensor:
            parameter.grad = gradient
            return torch.ones(())

        try:
            optimizer = subject.make([parameter])
            subject.step(optimizer, evaluate)
        except Exception as error:
            return "note", one_line(f"{what} refused: {type(error).__name__}: {error}", SHOWN)
        return "ok", f"{what} taken"

    return check


def _sparse() -> tuple[Tensor, Tensor]:
    index = torch.tensor([[0, 2]])
    return torch.ones(3, 2, requires_grad=True), torch.sparse_coo_tensor(index, torch.ones(2, 2), (3, 2))


def _complex() -> tuple[Tensor, Tensor]:
    return torch.ones(3, dtype=torch.complex64, requires_grad=True), torch.ones(3, dtype=torch.complex64)


def _foreach(subject: _Subject) -> tuple[Outcome, str]:
    if "foreach" not in inspect.signature(subject.cls).parameters:
        return "note", "there is no such argument"
    loop, lists = subject.way(foreach=False), subject.way(foreach=True)
    if _moved(loop, lists) <= 1e-5 * (1 + _moved(loop, _start())):
        return "ok", "lists of tensors and a loop over them take the same steps up to rounding"
    return "warning", f"lists of tensors and a loop over them differ by {_moved(loop, lists):.2g}"


def _scale_free(subject: _Subject) -> tuple[Outcome, str]:
    usual, larger = subject.way(), subject.way(factor=LARGER)
    change = _moved(usual, larger) / max(_moved(usual, _start()), 1e-30)
    if change <= ALIKE:
        return "note", f"yes: gradients {LARGER:g} times as large take the same steps"
    return "note", f"no: with gradients {LARGER:g} times as large the way differs by {change:.2g} of its length"


def _gradients_kept(subject: _Subject) -> tuple[Outcome, str]:
    parameters = _start()
    optimizer = subject.make(parameters)
    kept: list[tuple[Tensor, Tensor]] = []

    def evaluate() -> Tensor:
        loss = _closure(parameters)()
        kept[:] = [(p.grad, p.grad.clone()) for p in parameters if p.grad is not None]
        return loss

    subject.step(optimizer, evaluate)
    if all(torch.equal(gradient, before) for gradient, before in kept):
        return "ok", "are not changed by a step"
    return "note", "are changed in place by a step"


def _half(subject: _Subject) -> tuple[Outcome, str]:
    found = subject.way(dtype=torch.bfloat16)
    if all(p.isfinite().all() and p.dtype == torch.bfloat16 for p in found):
        return "ok", "parameters in bfloat16 stay so and finite"
    return "warning", "parameters in bfloat16 do not stay finite, or change their type"


def _copies(subject: _Subject) -> tuple[Outcome, str]:
    optimizer = subject.make(parameters := _start())
    subject.step(optimizer, _closure(parameters))
    deepcopy(optimizer)
    return "ok", "copy.deepcopy makes another one"


CHECKS: Mapping[str, Check] = {
    "descent": _descends,
    "learning rate": _rate_matters,
    "schedule": _schedule,
    "groups": _groups,
    "deterministic": _deterministic,
    "resume": _resumes,
    "copy": _copies,
    "no gradient": _without_gradient,
    "gradients": _gradients_kept,
    "NaN": _not_a_number,
    "sparse": _odd(_sparse, "a sparse gradient is"),
    "complex": _odd(_complex, "a complex parameter is"),
    "bfloat16": _half,
    "foreach": _foreach,
    "scale-free": _scale_free,
}
