"""Evaluates the two-dimensional benchmark functions on a grid, for contour plots."""

from __future__ import annotations

import pandas as pd
import torch

from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Rows, joined, metric_rows
from optrepro.problems.functions import vlse
from optrepro.problems.functions.vlse import Function
from optrepro.studies.base import Batch, Run
from optrepro.studies.surfaces import SurfacesStudy


def run(study: SurfacesStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Return tidy rows of the study's functions of two variables.

    Metrics: ``surface``, the value at grid point `step` = row * resolution + column, with rows along the second
    coordinate and columns along the first, both ascending; ``lower[k]`` and ``upper[k]``, the bounds of the box;
    ``minimizer[k]``, coordinate k of known minimizer number `seed`; and ``smooth``.
    """
    functions = [f for f in map(vlse.get, study.functions) if f.dim == 2]
    return joined(rows for f in functions for rows in _function_rows(f, study, batch))


def _function_rows(f: Function, study: SurfacesStudy, batch: Batch) -> list[Rows]:
    run = Run(batch.study, f.name, "none", "test", None, 0, 0, batch.settings)
    values = surface(f, study.resolution).flatten().numpy()
    rows = [metric_rows(run, 0.0, "surface", values, step=range(len(values)))]
    for k in (0, 1):
        rows.append(metric_rows(run, 0.0, f"lower[{k}]", f.lower[k].item()))
        rows.append(metric_rows(run, 0.0, f"upper[{k}]", f.upper[k].item()))
        rows.append(metric_rows(run, 0.0, f"minimizer[{k}]", f.minimizers[:, k].numpy(), seed=range(len(f.minimizers))))
    return [*rows, metric_rows(run, 0.0, "smooth", f.smooth)]


def surface(f: Function, resolution: int) -> torch.Tensor:
    """Evaluate a function of two variables on an even grid, (resolution, resolution); rows run along the second."""
    unit = torch.linspace(0, 1, resolution, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(unit, unit, indexing="xy"), dim=-1)
    with torch.no_grad():
        return f(torch.lerp(f.lower, f.upper, points))
