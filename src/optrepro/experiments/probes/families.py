"""Compares the static families on toy losses: on which losses are the optimal operators also the fastest?

An optimizer steps x <- x - Q g, where Q is the optimal operator of its family for Sigma, an exponential average of
g g^T along its own trajectory, including the current gradient. Gradients are exact. There are four kinds of panels:

- ``members/<toy>`` compares members of the Frobenius family with equal budget B: the optimal one, members that are
  optimal for a random Sigma (so that Q is fixed), and the identity, which treats all directions alike.
- ``families/<toy>`` compares the families. Their budgets have different units, so each operator is scaled once such
  that its learning power at Sigma_0, the average of g g^T over the start box, equals that of the Frobenius family.
- ``families-decayed/<toy>`` lets the steps shrink linearly to 0. The steps of Lyapunov and diagonal do not shrink with
  the gradient, so with a constant scale they circle the minimum at the distance of a step.
- ``families-norm/<toy>`` scales to equal Frobenius norms at Sigma_0 instead, which favours the Frobenius family; it
  shows how much the comparison depends on the scaling.

The power of a run is the Frobenius budget in units of the toy's curvature: sqrt(B) times the largest eigenvalue of the
Hessian. Gradient descent whose rate is the largest possible eigenvalue of Q is stable below 2.

Source: arXiv 2512.06370v1 has six such panels; losses, powers, averaging, decay of steps and both matches are chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base import tidy
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.progress import Progress, no_progress
from optrepro.experiments.base.tidy import Row
from optrepro.experiments.probes.operators import Diagonal, Frobenius, Lyapunov, Spectral, learning_power
from optrepro.problems.functions import toys
from optrepro.problems.functions.toys import Toy
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch

Operator = Callable[[Tensor], Tensor]
Size = Callable[[Tensor, Tensor], Tensor]

DISC = 1e6  # radius of the disc outside of which a run has diverged
REFERENCE_STARTS = 1024  # number of points in the start box over which Sigma_0 is averaged


class FamiliesSettings(Protocol):
    """Settings of the study.

    Attributes:
        member_toys, family_toys: losses of the panels that compare members or families, ids in
            `optrepro.problems.functions.toys`.
        powers: budgets to try, in units of the curvature.
        decay: weight of the past in Sigma, in [0, 1).
        members: number of random members.
        tuning_starts, starts: numbers of starts with role tune and role test; the two sets are disjoint.
        steps: number of steps of a run.
        points: number of recorded points of a curve.
    """

    member_toys: Sequence[str]
    family_toys: Sequence[str]
    powers: Sequence[float]
    decay: float
    members: int
    tuning_starts: int
    starts: int
    steps: int
    points: int


def run(study: FamiliesSettings, batch: Batch, context: Context) -> pd.DataFrame:
    """Return the tidy table of `measure` for a study; computed on the CPU, because operators are 2 x 2."""
    return measure(study, context.seed, context.progress).assign(study=batch.study)


def measure(settings: FamiliesSettings, seed: int, progress: Progress = no_progress) -> pd.DataFrame:
    """Run all panels and return one tidy table.

    ``workload`` is the kind of panel and the toy, as families/ellipse; ``optimizer`` is frobenius, random or identity
    in members/<toy>, and frobenius, spectral, lyapunov, diagonal or identity in the others; ``learning_rate`` is the
    power.

    The gap is the loss minus its minimum 0, and inf once a run has diverged. Metrics:

    - ``gap_median``, ``gap_lower``, ``gap_upper``: median and quartiles of the gap at `points` steps over the starts,
      for ``random`` over members and starts.
    - ``share_ahead`` (only ``random``): share of members whose median over the starts is below that of ``frobenius``.
    - ``member_median`` (only ``random``): median over the starts of member number ``seed``.
    - ``final_gap``: gap at the last step from start number ``seed``; for ``random`` the median over members.
    - ``diverged``: share of the runs that diverged.

    Role tune has ``gap_median`` at the last step, from its own starts, for ``random`` that of the member that ends
    lowest; the tuned power minimizes it.
    """
    panels = [
        *((_members, name) for name in settings.member_toys),
        *((_families, name) for name in settings.family_toys),
    ]
    rows: list[Row] = []
    for done, (panel, name) in enumerate(panels):
        progress(done, len(panels), name)
        rows += panel(toys.get(name), settings, seed)
    progress(len(panels), len(panels), "done")
    return tidy.frame(rows)


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    operator: Operator,
    steps: int,
    decay: float,
    shrinking: bool = False,
) -> Tensor:
    """Return the loss along x <- x - Q(Sigma) g, (steps + 1, ...); inf once a run has diverged.

    Args:
        loss: maps (..., d) to (...).
        start: starting points, (..., d).
        operator: maps Sigma (..., d, d) to Q.
        steps: number of updates.
        decay: weight of the past in Sigma, the average of g g^T; the weights are normalized to the sum 1.
        shrinking: whether Q is multiplied by a factor that falls linearly from 1 to 0.
    """
    x, sigma, weight = start, torch.zeros(*start.shape, start.shape[-1], dtype=start.dtype), 0.0
    inside = torch.ones(start.shape[:-1], dtype=torch.bool)
    values = []
    for step in range(steps + 1):
        value, gradient = _value_and_gradient(loss, x)
        values.append(torch.where(inside, value, torch.inf))
        sigma = decay * sigma + gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
        weight = decay * weight + 1
        factor = 1 - step / steps if shrinking else 1.0
        moved = x - factor * (operator(sigma / weight) @ gradient.unsqueeze(-1)).squeeze(-1)
        inside = inside & (moved.norm(dim=-1) < DISC)
        # A diverged run keeps its last point, so that later steps do not overflow.
        x = torch.where(inside.unsqueeze(-1), moved, x)
    return torch.stack(values)


def _value_and_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = loss(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def frobenius(sigma: Tensor) -> Tensor:
    """Return Sigma scaled to Frobenius norm 1."""
    return Frobenius(1.0).optimal(sigma)


def spectral(sigma: Tensor) -> Tensor:
    """Return Q with 1 on Sigma's leading eigenvector and 1/2 on the other (chosen, between projection and identity)."""
    return Spectral(budget=1.5, cap=1.0).optimal(sigma)


def lyapunov(sigma: Tensor) -> Tensor:
    """Return the identity divided by the root mean square of the gradient."""
    return Lyapunov(1.0, metric=sigma).optimal(sigma)


def diagonal(sigma: Tensor) -> Tensor:
    """Return Q proportional to 1/sigma_i, as in Adam: costs are sigma_i^3 / sum sigma, so the budget bounds a rate."""
    # Clamped because costs must be positive, and the cube of a much smaller number underflows to 0.
    deviation = sigma.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-75)
    return Diagonal(1.0, cost=deviation**3 / deviation.sum(-1, keepdim=True)).optimal(sigma)


def identity(sigma: Tensor) -> Tensor:
    """Return the identity scaled to Frobenius norm 1."""
    d = sigma.shape[-1]
    return torch.eye(d, dtype=sigma.dtype).mul(d**-0.5).expand_as(sigma)


def frobenius_norm(operator: Tensor, sigma: Tensor) -> Tensor:
    """Return the Frobenius norm of an operator, whatever the gradients."""
    return operator.square().sum().sqrt()


def match(size: Size, operator: Operator, sigma: Tensor) -> Tensor:
    """Return the factor that makes an operator as large as that of the Frobenius family at Sigma."""
    return size(frobenius(sigma), sigma) / size(operator(sigma), sigma)


MATCHES: dict[str, tuple[Size, bool]] = {  # how operators are scaled, and whether steps shrink, by kind of panel
    "families": (learning_power, False),
    "families-decayed": (learning_power, True),
    "families-norm": (frobenius_norm, False),
}
FAMILIES: dict[str, Operator] = {f.__name__: f for f in (frobenius, spectral, lyapunov, diagonal, identity)}


def _members(toy: Toy, settings: FamiliesSettings, seed: int) -> Iterator[Row]:
    """Yield the rows that compare the optimal member of the Frobenius family with others of the same budget."""
    workload = f"members/{toy.name}"
    budget = torch.tensor(settings.powers, dtype=torch.float64) / toy.curvature()
    generator = torch.Generator().manual_seed(derive_seed(seed, workload, "members"))
    factor = torch.randn(settings.members, 1, 2, 2, generator=generator, dtype=torch.float64)
    members = frobenius(factor @ factor.mT)

    def gaps(role: str, count: int) -> dict[str, Tensor]:
        start = _starts(toy, count, seed, role)
        others = start.expand(settings.members, -1, -1)
        return {
            "frobenius": _gaps(toy, start, frobenius, budget, settings),
            "identity": _gaps(toy, start, identity, budget, settings),
            "random": _gaps(toy, others, lambda _: members, budget, settings),
        }

    test = gaps("test", settings.starts)
    for name, found in test.items():
        yield from _curves(workload, name, found, settings)
    single = _quantile(test["random"], 0.5)
    for member, median in enumerate(single.unbind(-1)):
        yield from _per_step(workload, "random", "member_median", median, settings, member)
    ahead = (single < _quantile(test["frobenius"], 0.5).unsqueeze(-1)).double().mean(-1)
    yield from _per_step(workload, "random", "share_ahead", ahead, settings)
    for name, found in gaps("tune", settings.tuning_starts).items():
        final = _quantile(found[-1], 0.5)
        yield from _tuning(workload, name, final if name != "random" else final.amin(-1), settings)


def _families(toy: Toy, settings: FamiliesSettings, seed: int) -> Iterator[Row]:
    """Yield the rows that compare the families, scaled to the size of the Frobenius family at Sigma_0."""
    _, gradients = _value_and_gradient(toy, _starts(toy, REFERENCE_STARTS, seed, "reference"))
    sigma_0 = gradients.mT @ gradients / REFERENCE_STARTS
    budget = torch.tensor(settings.powers, dtype=torch.float64) / toy.curvature()
    tuning_start = _starts(toy, settings.tuning_starts, seed, "tune")
    start = _starts(toy, settings.starts, seed, "test")
    for (kind, (size, shrinking)), (name, operator) in itertools.product(MATCHES.items(), FAMILIES.items()):
        workload = f"{kind}/{toy.name}"
        scale = budget * match(size, operator, sigma_0)
        yield from _curves(workload, name, _gaps(toy, start, operator, scale, settings, shrinking), settings)
        final = _quantile(_gaps(toy, tuning_start, operator, scale, settings, shrinking)[-1], 0.5)
        yield from _tuning(workload, name, final, settings)


def _gaps(
    toy: Toy, start: Tensor, operator: Operator, scale: Tensor, settings: FamiliesSettings, shrinking: bool = False
) -> Tensor:
    """Return the gaps (steps + 1, powers, ...) of runs from starts (..., 2), with Q times each scale (powers,)."""
    scale = scale.reshape(-1, *[1] * (start.ndim + 1))
    start = start.expand(len(scale), *start.shape)
    return descend(toy, start, lambda sigma: scale * operator(sigma), settings.steps, settings.decay, shrinking)


def _tuning(workload: str, optimizer: str, final: Tensor, settings: FamiliesSettings) -> Iterator[Row]:
    """Yield the rows of tuning, from the median gap at the last step of each power (powers,)."""
    for power, value in zip(settings.powers, final.tolist(), strict=True):
        yield _row(workload, optimizer, power, "gap_median", value, settings.steps, role="tune")


def _starts(toy: Toy, count: int, seed: int, role: str) -> Tensor:
    """Draw the starts of a role, (count, 2); all optimizers and kinds of panels share them."""
    return toy.starts(count, torch.Generator().manual_seed(derive_seed(seed, toy.name, role)))


def _curves(workload: str, optimizer: str, gaps: Tensor, settings: FamiliesSettings) -> Iterator[Row]:
    """Yield the rows of quartiles and final gaps, from gaps (steps + 1, powers, ..., starts)."""
    pooled = gaps.flatten(2)
    for metric, q in (("gap_lower", 0.25), ("gap_median", 0.5), ("gap_upper", 0.75)):
        yield from _per_step(workload, optimizer, metric, _quantile(pooled, q), settings)
    final = gaps[-1] if gaps.ndim == 3 else _quantile(gaps[-1].mT, 0.5)
    diverged = pooled[-1].isinf().double().mean(-1)
    for p, power in enumerate(settings.powers):
        for index, value in enumerate(final[p].tolist()):
            yield _row(workload, optimizer, power, "final_gap", value, settings.steps, seed=index)
        yield _row(workload, optimizer, power, "diverged", diverged[p].item(), settings.steps)


def _per_step(
    workload: str, optimizer: str, metric: str, values: Tensor, settings: FamiliesSettings, seed: int = 0
) -> Iterator[Row]:
    """Yield rows of values (steps + 1, powers) at evenly spaced steps, including the first and the last."""
    shown = sorted({round(float(step)) for step in torch.linspace(0, settings.steps, settings.points)})
    for p, power in enumerate(settings.powers):
        for step in shown:
            yield _row(workload, optimizer, power, metric, values[step, p].item(), step, seed=seed)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Return the nearest-rank quantile along the last dimension; interpolation between infinities would give NaN."""
    return values.kthvalue(1 + round(q * (values.shape[-1] - 1)), dim=-1).values


def _row(
    workload: str,
    optimizer: str,
    power: float,
    metric: str,
    value: float,
    step: int,
    role: str = "test",
    seed: int = 0,
) -> Row:
    run = f"{workload}/{optimizer}/{power:g}/{role}"
    return Row(run, "families", workload, optimizer, role, power, seed, step, metric, value)
