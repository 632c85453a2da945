"""A portrait of the prior: its fixed sets, pictures of samples, and its statistics beside other collections'."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Rows, joined, metric_rows
from optrepro.experiments.descent import fixed_sets
from optrepro.experiments.descent.fixed_sets import FixedSet
from optrepro.problems.functions import shifted, vlse
from optrepro.problems.functions.landscape import describe
from optrepro.problems.functions.synthetic import SyntheticPrior
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch, Role, Run
from optrepro.studies.prior import PriorStudy

POINTS = 512  # chosen: number of points in the box at which the statistics of a function are computed


def run(study: PriorStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Return the tidy rows of the study; computed on the CPU, because all tensors are small.

    - Workloads ``validation`` (role tune) and ``test`` (role test) are the fixed sets; `seed` is the index of the
      function. Metrics: ``minimum``, ``maximum`` (estimates), ``kind`` (index in
      `optrepro.problems.functions.synthetic.KINDS`), and the coordinates ``start0``, ``start1``, ... of the start.
    - Workloads ``gallery/<i>`` are the first test functions, if they have two variables. Metrics: ``kind``;
      ``surface``, the value at grid point (`seed`, `step`), with rows along the second coordinate and columns along
      the first; and the minimizer ``x0``, ``x1``.
    - Workloads ``statistics/<collection>`` have the metrics of `optrepro.problems.functions.landscape.describe` where
      they are defined; `seed` is the index of the function in its collection. The collections are ``prior``,
      ``shift-<name>`` and ``vlse`` (functions with at most as many variables as the study's).
    """
    counts = {"validation": study.validation_functions, "test": study.test_functions}
    found = {
        name: fixed_sets.fixed(study.prior, context.seed, name, count, study.dim) for name, count in counts.items()
    }
    return joined(
        [
            *_set_rows(batch, "validation", "tune", found["validation"]),
            *_set_rows(batch, "test", "test", found["test"]),
            *(_gallery_rows(batch, study, found["test"]) if study.dim == 2 else []),
            *_statistics_rows(batch, study, context),
        ]
    )


def _set_rows(batch: Batch, name: str, role: Role, fixed: FixedSet) -> list[Rows]:
    facts = {
        "minimum": fixed.extrema.minimum,
        "maximum": fixed.extrema.maximum,
        "kind": fixed.functions.kind,
        **{f"start{k}": fixed.start[:, k] for k in range(fixed.start.shape[1])},
    }
    return _rows(batch, name, role, facts)


def _gallery_rows(batch: Batch, study: PriorStudy, fixed: FixedSet) -> list[Rows]:
    shown = slice(0, study.gallery)
    unit = torch.linspace(0, 1, study.resolution, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(unit, unit, indexing="xy"), dim=-1).flatten(0, 1)
    functions, minimizers = fixed.functions[shown], fixed.extrema.minimizer[shown]
    surfaces = functions.value(grid.expand(len(functions), -1, -1)).view(-1, study.resolution, study.resolution)
    places = np.arange(study.resolution)
    rows = []
    for i, surface in enumerate(surfaces):
        row = _run(batch, f"gallery/{i}", "test")
        rows.append(metric_rows(row, 0.0, "kind", functions.kind[i].item()))
        rows.append(metric_rows(row, 0.0, "surface", surface.numpy(), seed=places[:, None], step=places))
        rows += [metric_rows(row, 0.0, f"x{k}", minimizers[i, k].item()) for k in (0, 1)]
    return rows


def _statistics_rows(batch: Batch, study: PriorStudy, context: Context) -> list[Rows]:
    seed = derive_seed(context.seed, "prior", "statistics")
    total = 2 + len(shifted.NAMES)
    context.progress(0, total, "prior")
    own = SyntheticPrior(study.prior).sample(seed, study.described, study.dim)
    rows = _rows(batch, "statistics/prior", "test", describe(own, seed, POINTS))
    for done, name in enumerate(shifted.NAMES, start=1):
        context.progress(done, total, name)
        problems = shifted.get(name, derive_seed(seed, name), study.described, study.dim)
        rows += _rows(batch, f"statistics/shift-{name}", "test", describe(problems, seed, POINTS))
    context.progress(total - 1, total, "vlse")
    for i, f in enumerate(map(vlse.get, study.functions)):
        if f.dim <= study.dim:
            rows += _rows(batch, "statistics/vlse", "test", describe(f, seed, POINTS), first=i)
    context.progress(total, total, "done")
    return rows


def _rows(batch: Batch, workload: str, role: Role, facts: Mapping[str, Tensor], first: int = 0) -> list[Rows]:
    """Make a row for each function and fact that is not NaN; `first` is the index of the first function."""
    row = _run(batch, workload, role)
    seeds = {name: first + np.flatnonzero(~values.isnan().numpy()) for name, values in facts.items()}
    return [
        metric_rows(row, 0.0, name, values[seeds[name] - first], seed=seeds[name]) for name, values in facts.items()
    ]


def _run(batch: Batch, workload: str, role: Role) -> Run:
    return Run(batch.study, workload, "none", role, None, 0, 0, batch.settings)
