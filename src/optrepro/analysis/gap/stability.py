"""Loss of alignment of a choice that is made by perturbed statistics R' instead of R, with its bound.

Compared with the best filter for R, the filter chosen by R' loses at most 2 sup_q |<q, R - R'>|, and for filters of
unit norm at most 2 ||R - R'||. As the loss is <q - q', R> <= <q - q', R - R'>, it is at most D ||R - R'|| in a family
whose filters have distances of at most D <= 2.

Source: the standard argument, see arXiv 2512.06370 (whose constant is open); sizes and numbers are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from optrepro.analysis.gap.diagnostics import block_length, complete_blocks
from optrepro.analysis.results import StudyResults

FAMILIES = {
    "candidates": np.array([0.5, 0.9, 0.99]),
    "interval": np.linspace(0, 0.99, 100),  # a grid of candidates, to which the bound applies exactly
}
SELF_TERMS = {"paper": "R0", "debiased": "halves"}  # estimate of R_0 in each score
SIZES = (0.03, 0.1, 0.3, 1.0)  # norms of perturbations, relative to the norm of R
DIRECTIONS = 16  # number of random directions for each R and size
PHASES = 3  # number of equal parts of a training in which R is estimated from shorter windows

Array = NDArray[np.float64]


def filters(momenta: Array, lags: int) -> Array:
    """The unit-norm filters of heavy-ball momentum, truncated after `lags`: (candidates, lags + 1)."""
    powers = momenta[:, None] ** np.arange(lags + 1)
    unit: Array = powers / np.linalg.norm(powers, axis=1, keepdims=True)
    return unit


def loss(family: Array, true: Array, believed: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Loss of alignment max_q <q, R> - <q(R'), R>, (...), and whether R' chooses another filter than R.

    Args:
        family: filters (candidates, lags + 1).
        true: R, (..., lags + 1).
        believed: R', (..., lags + 1).
    """
    scores, chosen = true @ family.T, (believed @ family.T).argmax(-1)
    taken = np.take_along_axis(scores, chosen[..., None], -1)[..., 0]
    return scores.max(-1) - taken, chosen != scores.argmax(-1)


def perturbations(study: StudyResults) -> pd.DataFrame:
    """Random perturbations of the R of every window: one row per perturbation and family.

    Columns: workload, score (paper or debiased, which differ in R_0), family, size (||R' - R|| / ||R||), loss and bound
    (2 ||R' - R||), both divided by ||R||, changed (whether another filter is chosen). Directions are uniform on the
    sphere, and the same in every call.
    """
    blocks = int(study.facts.settings["blocks"])
    generator = np.random.default_rng(0)
    tables = []
    for score, self_term in SELF_TERMS.items():
        for workload, runs in complete_blocks(study, self_term).items():
            true = np.concatenate([_windows(run, blocks) for run in runs])
            for size in SIZES:
                directions = generator.standard_normal((DIRECTIONS, *true.shape))
                directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
                believed = true + size * np.linalg.norm(true, axis=-1, keepdims=True) * directions
                points = _compare(np.broadcast_to(true, believed.shape), believed)
                tables.append(points.assign(workload=workload, score=score, size=size))
    return pd.concat(tables, ignore_index=True)


def windows(study: StudyResults) -> pd.DataFrame:
    """Choices by the R' of a short window instead of the R of its third of the training: a row per window and family.

    Columns: workload, score, family, steps (of the window), loss and bound (2 ||R' - R||), both divided by ||R||,
    changed.
    """
    length = block_length(study)
    tables = []
    for score, self_term in SELF_TERMS.items():
        for workload, runs in complete_blocks(study, self_term).items():
            for phase in (phase for run in runs for phase in np.array_split(run, PHASES)):
                for size in (2**i for i in range(len(phase).bit_length() - 1)):
                    believed = _windows(phase, size)
                    points = _compare(np.broadcast_to(phase.mean(0), believed.shape), believed)
                    tables.append(points.assign(workload=workload, score=score, steps=size * length))
    return pd.concat(tables, ignore_index=True)


def diameters(study: StudyResults) -> dict[str, float]:
    """The largest distance between two filters of each family, truncated after the study's lags."""
    lags = int(study.facts.settings["lags"])
    return {name: float(pdist(filters(momenta, lags)).max()) for name, momenta in FAMILIES.items()}


def summary(study: StudyResults) -> pd.DataFrame:
    """Summary of `perturbations` and `windows`: one row per workload, score, family and amount.

    Columns: source (perturbations, windows), workload, score, family, amount (the size, or the steps); points (their
    number), changed (share), loss and bound (medians), median and largest (of loss / bound).
    """
    sources = {
        "perturbations": perturbations(study).rename(columns={"size": "amount"}),
        "windows": windows(study).rename(columns={"steps": "amount"}),
    }
    points = pd.concat(sources, names=["source"]).reset_index("source")
    points["ratio"] = points.loss / points.bound
    return (
        points.groupby(["source", "workload", "score", "family", "amount"], sort=False)
        .agg(
            points=("loss", "size"),
            changed=("changed", "mean"),
            loss=("loss", "median"),
            bound=("bound", "median"),
            median=("ratio", "median"),
            largest=("ratio", "max"),
        )
        .reset_index()
    )


def _windows(run: Array, size: int) -> Array:
    """Means of consecutive groups of `size` blocks; remaining blocks are left out."""
    count = len(run) // size
    means: Array = run[: count * size].reshape(count, size, -1).mean(1)
    return means


def _compare(true: Array, believed: Array) -> pd.DataFrame:
    """Loss, bound and change of the choice for all pairs of R and R', (..., lags + 1), in every family."""
    norm = np.linalg.norm(true, axis=-1)
    bound = 2 * np.linalg.norm(believed - true, axis=-1) / norm

    def tables() -> Iterator[pd.DataFrame]:
        for name, momenta in FAMILIES.items():
            lost, changed = loss(filters(momenta, true.shape[-1] - 1), true, believed)
            values = {"loss": (lost / norm).ravel(), "bound": bound.ravel(), "changed": changed.ravel()}
            yield pd.DataFrame(values).assign(family=name)

    return pd.concat(list(tables()), ignore_index=True)
