"""Exhibits gap-sgdm and gap-adam: greedily chosen momentum or beta1, with fixed candidates, controls and peers."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels
from optrepro.exhibits.material import Material


def figure(material: Material) -> Figure:
    """Scores with intervals, learning curves, and the choices over time."""
    (study,) = material.facts
    return panels.comparison_figure(material, study)


def table(material: Material) -> pd.DataFrame:
    """One row per optimizer."""
    (study,) = material.facts
    return panels.readable_scores(material.tables[f"{study}-scores"])
