"""Exhibit pop-prior: functions sampled from the prior."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import style
from optrepro.exhibits.functions import STAR, surface_panel
from optrepro.exhibits.material import Material

COLUMNS = 6
PANEL = 29.0  # height of a panel, mm
TITLES = {"convex": "convex quadratic", "gp": "Gaussian process", "sum": "quadratic + process"}


def figure(material: Material) -> Figure:
    """One panel per function: values on the unit box as shades, the estimated minimizer as a star."""
    surfaces = material.tables["pop-prior-gallery"]
    numbers = surfaces.function.unique()
    rows = -(-len(numbers) // COLUMNS)
    page = style.page(material, height=PANEL * rows + 8)
    panels = page.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, number in zip(panels, numbers, strict=False):
        surface = surfaces[surfaces.function == number]
        surface_panel(axes, surface)
        axes.set_title(TITLES[surface.family.iloc[0]], fontsize=7, fontweight="normal", pad=2)
    for axes in panels[len(numbers) :]:
        axes.set_axis_off()
    page.legend(handles=[Line2D([], [], label="estimated minimizer", **STAR)], loc="outside lower center")
    return page


def table(material: Material) -> pd.DataFrame:
    """The fixed sets: number and share of functions of each family, and the median range of their values."""
    sets = material.tables["pop-prior-sets"]
    return pd.DataFrame(
        {
            "set": sets["set"],
            "family": sets.family.map(TITLES),
            "functions": sets.functions,
            "share (%)": sets.share.map(style.percent),
            "median of maximum - minimum": sets.range.map(style.number),
        }
    )
