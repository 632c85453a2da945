"""Exhibit gap-adam: Adam with a greedily chosen first moment, beside all that it must be compared with."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels
from optrepro.exhibits.material import Material


def figure(material: Material) -> Figure:
    """Scores with intervals, curves with spread, and the choices over time."""
    return panels.comparison_figure(material, "gap-adam")


def table(material: Material) -> pd.DataFrame:
    """One row per optimizer."""
    return panels.readable_scores(material.tables["gap-adam-scores"])
