"""Exhibit gap-validation: validation-aware selection, plain dynamic selection and fixed candidates."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

AWARE = "validation"
RULES = ("paper", "debiased", "raw", AWARE)
CURVES = ("paper", "raw", AWARE)
TITLES = {"gap-sgdm": "SGD", "gap-adam": "Adam"}


def figure(material: Material) -> Figure:
    """For each study, the difference to the picked fixed candidate, on one scale, and below it the curves."""
    shown = {study: _shown(scores) for study, scores in _by_study(material, "scores").items()}
    curves, everything = _by_study(material, "curves"), pd.concat(shown.values(), ignore_index=True)
    rows = 4.6 * max(map(len, shown.values())) + 34
    page = style.page(material, height=rows + 70)
    parts: Any = page.subfigures(2, 1, height_ratios=[rows, 70])
    above, below = parts
    sides = above.subplots(1, len(shown), squeeze=False)[0]
    for axes, (study, scores) in zip(sides, shown.items(), strict=True):
        panels.difference_panel(axes, scores, panels.row_positions(scores), among=everything)
        axes.set_title(f"{TITLES.get(study, study)}: {_finding(scores)}")
        labels = [label.replace(" (always the smallest)", "") for label in panels.row_labels(scores)]  # too wide here
        panels.name_rows(axes, scores, labels)
    trained = below.subplots(1, len(shown), squeeze=False)[0]
    for axes, (study, scores) in zip(trained, shown.items(), strict=True):
        fixed = scores[scores.group == "fixed"].optimizer
        panels.curve_panel(axes, curves[study], scores, [*fixed, *CURVES])
    handles, labels = trained[0].get_legend_handles_labels()
    names = [label.replace("momentum", "momentum or β₁") for label in labels]
    below.legend(handles, names, ncols=4, loc="outside lower center", handlelength=1.9, columnspacing=0.9)
    return page


def table(material: Material) -> pd.DataFrame:
    """The fixed candidates and the plain and validation-aware rules of each study."""
    parts = []
    for study, scores in _by_study(material, "scores").items():
        readable = panels.readable_scores(_shown(scores))
        readable.insert(0, "study", study)
        parts.append(readable)
    return pd.concat(parts, ignore_index=True)


def _finding(scores: pd.DataFrame) -> str:
    """What the interval of the validation-aware rule says."""
    by_key = scores.set_index("optimizer")
    if AWARE not in by_key.index:
        return "not run"
    low, high = by_key.difference_low[AWARE], by_key.difference_high[AWARE]
    word = "better than" if low > 0 else "worse than" if high < 0 else "no different from"
    return f"validation-aware\n{word} {by_key.label[scores.reference.iloc[0]]}"


def _by_study(material: Material, kind: str) -> dict[str, pd.DataFrame]:
    suffix = f"-{kind}"
    return {name.removesuffix(suffix): t for name, t in material.tables.items() if name.endswith(suffix)}


def _shown(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[(scores.group == "fixed") | scores.optimizer.isin(RULES)].reset_index(drop=True)
