"""Exhibit pop-dimensions: the policy on functions with more variables than in its training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import POP
from optrepro.exhibits import series, style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import MEASURES, complete, foremost, lead_panel, leads, readable_scores

REFERENCES = "derivative-free"  # group whose curves have one name together
STEP = 0.06  # distance between the markers of one dimension, where that of two dimensions is 1


def figure(material: Material) -> Figure:
    """Above: both scores by dimension. Below: the policy's lead over the best baseline."""
    scores = material.tables["pop-dimensions"]
    dimensions, coloured = list(scores.dimension.unique()), foremost(scores)
    page = style.page(material, height=125)
    rows = page.subplots(2, 2, height_ratios=[1.6, 1], squeeze=False)
    for (above, below), measure in zip(rows.T, MEASURES, strict=True):
        score_panel(above, complete(scores), measure, coloured, dimensions)
        lead_panel(below, leads(scores, "dimension", measure), dimensions, "dimension", measure)
        below.set_yticks([place + 0.5 for place in range(len(dimensions))], [f"{d}-D" for d in dimensions])
    return page


def score_panel(axes: Axes, scores: pd.DataFrame, measure: str, coloured: Sequence[str], dimensions: list[int]) -> None:
    """Mean score by dimension; those that are coloured have their names at their ends, and 95 % intervals."""
    ends = []
    for key, rows in scores.groupby("optimizer", sort=False):
        x = [dimensions.index(dimension) for dimension in rows.dimension]
        if key not in coloured:
            axes.plot(x, rows[measure], ".-", **series.OTHERS)
            continue
        look, width = style.look(str(key)), 2.0 if key == POP else 1.1
        shift = STEP * (coloured.index(str(key)) - (len(coloured) - 1) / 2)
        ends_of = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
        drawn = {**look.point, **look.line, "linewidth": width, "elinewidth": width, "markersize": 3 + 2 * width}
        axes.errorbar([place + shift for place in x], rows[measure], yerr=ends_of, label=rows.label.iloc[0], **drawn)
        if dimensions[-1] in set(rows.dimension):
            ends.append((series.short(rows.label.iloc[0]), rows[measure].iloc[-1], look.color))
    references = scores[(scores.group == REFERENCES) & (scores.dimension == dimensions[-1])]
    if len(references):
        ends.append((REFERENCES, references[measure].mean(), style.MUTED))
    axes.set_xticks(range(len(dimensions)), [str(d) for d in dimensions])
    axes.set(xlabel="dimension", xlim=(-0.3, len(dimensions) - 0.75), ylabel=f"mean {measure}")
    last = scores[scores.dimension == dimensions[-1]]
    highest = series.short(str(last.label.iloc[int(last[measure].argmax())])) if len(last) else "none"
    axes.set_title(f"{MEASURES[measure].capitalize()}:\n{highest} highest in {dimensions[-1]}-D")
    style.grid(axes)
    series.name_ends(axes, ends)


def table(material: Material) -> pd.DataFrame:
    """One row per dimension and optimizer: scores, and the policy's lead with its tests."""
    scores = material.tables["pop-dimensions"]
    readable = readable_scores(scores)
    readable.insert(0, "dimension", scores.dimension)
    return readable
