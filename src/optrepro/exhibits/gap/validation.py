"""Exhibit gap-validation: validation-aware selection, plain rules, fixed candidates, and controls that see as much."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

AWARE = "validation"
CURVES = ("paper", AWARE, "fixed-joined", "fixed-doubled")  # beside those of the fixed candidates


def figure(material: Material) -> Figure:
    """The difference to the picked fixed candidate, and the curves."""
    scores, curves = material.tables["gap-validation-sgd-scores"], material.tables["gap-validation-sgd-curves"]
    page = style.page(material, height=4.6 * len(scores) + 50)
    sides: Any = page.subfigures(1, 2, width_ratios=[1.3, 1])
    left, right = sides
    differences = left.subplots()
    panels.difference_panel(differences, scores, panels.row_positions(scores), among=scores)
    differences.set_title(_finding(scores))
    panels.name_rows(differences, scores, panels.row_labels(scores))
    fixed = scores[scores.group == "fixed"].optimizer
    trained = right.subplots()
    panels.curve_panel(trained, curves, scores, [*fixed, *CURVES])
    trained.set_title("During training")
    right.legend(loc="outside lower center", handlelength=2.6)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per optimizer."""
    return panels.readable_scores(material.tables["gap-validation-sgd-scores"])


def _finding(scores: pd.DataFrame) -> str:
    """What the interval of the validation-aware rule says, and which row has the highest mean."""
    by_key = scores.set_index("optimizer")
    if AWARE not in by_key.index:
        return "not run"
    low, high = by_key.difference_low[AWARE], by_key.difference_high[AWARE]
    word = "better than" if low > 0 else "worse than" if high < 0 else "no different from"
    found = f"Validation-aware {word} {by_key.label[scores.reference.iloc[0]]}"
    best = str(by_key.difference.idxmax())
    return textwrap.fill(found if best == AWARE else f"{found}; highest: {by_key.label[best]}", 27)
