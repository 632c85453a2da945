"""Exhibit gap-finetuning: every method on both tasks of fine-tuning, in the form of the paper's tables."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

TASKS = {"gap-lm": "language", "gap-vit": "vision"}
MEASURES = {  # heading, unit, scale and digits, and the word for the best
    "test_loss": ("loss", "nats", 1, 3, "Lowest"),
    "test_accuracy": ("accuracy", "%", 100, 1, "Highest"),
    "exact_match": ("exact match", "%", 100, 1, "Highest"),
}


def figure(material: Material) -> Figure:
    """Mean and one standard deviation of each measure of each task; rows are methods."""
    table = material.tables["gap-finetuning"]
    rows = table.drop_duplicates("optimizer")
    y = dict(zip(rows.optimizer, panels.row_positions(rows), strict=True))
    columns = list(table[["task", "measure"]].drop_duplicates().itertuples(index=False, name=None))
    page = style.page(material, height=4.6 * len(rows) + 32)
    sides = page.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (task, measure) in zip(sides, columns, strict=True):
        heading, unit, scale, _, best = MEASURES[measure]
        shown = table[(table.task == task) & (table.measure == measure)]
        panels.dots(axes, shown, [y[key] for key in shown.optimizer], "mean", scale)
        first = next(iter(shown.label[shown.best].astype(str)), "none")  # where all runs diverged
        lines = textwrap.wrap(panels.short(first), 15, break_on_hyphens=False)
        axes.set_title("\n".join([f"{best}:", *lines]))
        axes.set_xlabel(f"{TASKS.get(task, task)}\n{heading} ({unit})")
        style.grid(axes, "x")
    panels.name_rows(sides[0], rows, list(rows.label))
    return page


def table(material: Material) -> pd.DataFrame:
    """Methods by tasks and measures, mean ± standard deviation; the best mean of a column is marked."""
    values = material.tables["gap-finetuning"]
    rows = values.drop_duplicates("optimizer")
    readable = {"method": list(rows.label), "group": list(rows.group)}
    for (task, measure), own in values.groupby(["task", "measure"], sort=False):
        heading, unit, scale, digits, _ = MEASURES[str(measure)]
        cells = {
            row["optimizer"]: f"{scale * row['mean']:.{digits}f} ± {scale * row['std']:.{digits}f}" + " ★" * row["best"]
            for row in own.to_dict("records")
        }
        readable[f"{TASKS.get(str(task), task)}: {heading} ({unit})"] = [cells.get(key, "–") for key in rows.optimizer]
    return pd.DataFrame(readable)
