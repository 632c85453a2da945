"""Exhibit gap-validation: validation-aware selection, plain rules, fixed candidates, and controls that see as much."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

CURVES = ("paper", "validation", "fixed-joined", "fixed-doubled")  # beside those of the fixed candidates


def figure(material: Material) -> Figure:
    """Final accuracy, its difference to the best fixed candidate, and curves."""
    scores, curves = material.tables["gap-validation-sgd-scores"], material.tables["gap-validation-sgd-curves"]
    page = style.page(material, height=5.2 * len(scores) + 46)
    sides: Any = page.subfigures(1, 2, width_ratios=[2.1, 1])
    left, right = sides
    panels.score_panels(left, scores, loss=False)
    fixed = scores[scores.group == "fixed"].optimizer
    axes = right.subplots()
    panels.curve_panel(axes, curves, scores, [*fixed, *CURVES])
    axes.set_title("During training")
    right.legend(loc="outside lower center", handlelength=2.6, fontsize=6.5)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per optimizer."""
    return panels.readable_scores(material.tables["gap-validation-sgd-scores"])
