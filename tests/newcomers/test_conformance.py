"""The checks of a user's class: what they find, and that a broken class is one clear line."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optrepro.newcomers import conformance
from optrepro.newcomers.conformance import Report
from optrepro.newcomers.target import parse
from optrepro.settings import ConfigError

Class = Callable[..., Report]

SIGN = """
import os, time, torch
from torch.optim import Optimizer

class Sign(Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, group["lr"])
        return loss

    def move(self, p, lr):
        p.sub_(lr * p.grad.sign())
"""


@pytest.fixture
def examined(tmp_path: Path) -> Class:
    """A function from lines of a class that extends `Sign` to the report on it."""

    def report(*lines: str, limit: float = 120.0) -> Report:
        body = "\n".join(f"    {line}" for line in lines or ("pass",))
        file = tmp_path / "a_users_own.py"
        file.write_text(f"{SIGN}\nclass Own(Sign):\n{body}\n")
        return conformance.examine(parse(f"{file}:Own"), limit=limit)

    return report


def outcomes(report: Report) -> dict[str, str]:
    return {finding.check: finding.outcome for finding in report.findings}


def meaning(report: Report, check: str) -> str:
    return next(finding.meaning for finding in report.findings if finding.check == check)


def test_a_sound_class_passes_every_check_and_can_run_everywhere(examined: Class) -> None:
    report = examined()
    assert set(outcomes(report).values()) <= {"ok", "note"}
    assert list(outcomes(report)) == ["import", "signature", "step", *conformance.CHECKS]
    assert (report.failure, dict(report.refused), report.ignores_rate) == (None, {}, False)
    assert meaning(report, "scale-free").startswith("yes")


@pytest.mark.parametrize(
    ("lines", "check"),
    [
        (["def move(self, p, lr): p.sub_(0.01 * p.grad.sign())"], "learning rate"),
        (["def move(self, p, lr): p.add_(lr * p.grad.sign())"], "descent"),
        (["def move(self, p, lr): p.sub_(lr * self.defaults['lr'] * 0 + 0.001 * p.grad)"], "schedule"),
        (["def move(self, p, lr): p.sub_(lr * os.urandom(1)[0] * p.grad.sign())"], "deterministic"),
        (["t = 0", "def move(self, p, lr): self.t += 1; p.sub_(lr / self.t * p.grad)"], "resume"),
        (
            [
                "def step(self, closure=None):",
                "    for p in self.param_groups[0]['params']: p.data.mul_(0.9)",
                "    return super().step(closure)",
            ],
            "no gradient",
        ),
        (["def move(self, p, lr): p.sub_(lr * torch.linalg.vector_norm(p.grad.float()).item() ** 400)"], "bfloat16"),
    ],
)
def test_a_fault_that_spoils_a_comparison_is_a_warning(examined: Class, lines: list[str], check: str) -> None:
    report = examined(*lines)
    assert report.failure is None
    assert outcomes(report)[check] == "warning"


@pytest.mark.parametrize(
    ("lines", "check", "text"),
    [
        (["def __init__(self, params, rate): super().__init__(params, rate)"], "signature", "rate"),
        (["def step(self, closure=None): raise KeyError('gone')"], "step", "KeyError: 'gone'"),
        (["def step(self, loss): loss.add(1)"], "step", "step(loss)"),
        (["def first_step(self): pass", "def second_step(self): pass"], "step", "SAM"),
        (["def step(self, closure): pass"], "step", "does not call the closure"),
        (["def move(self, p, lr): os.kill(os.getpid(), 9)"], "step", "SIGKILL"),
        (["def move(self, p, lr): os._exit(3)"], "step", "3"),
    ],
)
def test_a_class_that_cannot_be_used_fails_with_one_line(
    examined: Class, lines: list[str], check: str, text: str
) -> None:
    failure = examined(*lines).failure
    assert failure is not None
    assert failure.check == check
    assert text in failure.meaning
    assert "\n" not in failure.meaning


def test_a_class_that_hangs_is_ended(examined: Class) -> None:
    started = time.monotonic()
    failure = examined("def move(self, p, lr): time.sleep(600)", limit=10.0).failure
    assert failure is not None
    assert (failure.check, "10 s" in failure.meaning) == ("step", True)
    assert time.monotonic() - started < 60


def test_what_needs_a_closure_that_evaluates_anew_is_left_out_of_networks_with_the_reason() -> None:
    report = conformance.examine(parse("torch.optim.LBFGS"))
    assert report.failure is None
    assert list(report.refused) == ["networks"]
    assert "L-BFGS" in report.refused["networks"]


def test_a_step_without_a_closure_is_left_out_of_functions(examined: Class) -> None:
    report = examined("def step(self): Sign.step(self)")
    assert report.failure is None
    assert list(report.refused) == ["functions"]


def test_settings_that_the_class_does_not_take_are_named() -> None:
    failure = conformance.examine(parse("torch.optim.NAdam"), {"beta": 0.9}).failure
    assert failure is not None
    assert "settings.beta is not an argument of NAdam; it takes params, lr, betas" in failure.meaning


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("https://example.org/own.py:Own", "never taken from the network"),
        ("own.py", "names no class"),
        ("own.py:Own", "is not a Python file"),
        ("random.py:Own", "is a module already"),
        ("no_such_package.Own", "there is no module"),
        ("NAdam", "It must be a file and a class"),
    ],
)
def test_what_names_no_class_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("random.py").write_text("")
    with pytest.raises(ConfigError, match=fault):
        parse(text)


def test_the_name_of_a_class_becomes_that_of_a_folder() -> None:
    assert [parse(path).slug for path in ("torch.optim.NAdam", "torch.optim.SGD")] == ["nadam", "sgd"]


def test_the_checks_leave_this_process_as_it_was(examined: Class) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    examined()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
