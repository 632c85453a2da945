"""Exhibit gap-validation: validation-aware selection, plain rules, fixed candidates, and controls that see as much."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

RULES = ("paper", "debiased", "raw", "validation")
CURVES = ("paper", "validation", "fixed-joined", "fixed-doubled")  # beside those of the fixed candidates
TITLES = {"gap-validation-sgd": "SGD with momentum", "gap-validation-adam": "Adam"}


def figure(material: Material) -> Figure:
    """Final accuracy, its difference to the best fixed candidate, and curves, for each study."""
    shown = {study: _shown(scores) for study, scores in _by_study(material, "scores").items()}
    curves = _by_study(material, "curves")
    page = style.page(material, height=88 * len(shown))
    parts = page.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (study, scores) in zip(parts, shown.items(), strict=True):
        part.suptitle(TITLES.get(study, study), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        left, right = part.subfigures(1, 2, width_ratios=[1.9, 1])
        panels.score_panels(left, scores, loss=False)
        fixed = scores[scores.group == "fixed"].optimizer
        axes = right.subplots()
        panels.curve_panel(axes, curves[study], scores, [*fixed, *CURVES])
        axes.set_title("During training")
        right.legend(ncols=2, loc="outside lower center", handlelength=1.4, columnspacing=0.7, fontsize=6.5)
    return page


def table(material: Material) -> pd.DataFrame:
    """The fixed candidates, the plain and validation-aware rules, and the controls of each study."""
    parts = []
    for study, scores in _by_study(material, "scores").items():
        readable = panels.readable_scores(_shown(scores))
        readable.insert(0, "study", study)
        parts.append(readable)
    return pd.concat(parts, ignore_index=True)


def _by_study(material: Material, kind: str) -> dict[str, pd.DataFrame]:
    suffix = f"-{kind}"
    return {name.removesuffix(suffix): t for name, t in material.tables.items() if name.endswith(suffix)}


def _shown(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores.group.isin(("fixed", "control")) | scores.optimizer.isin(RULES)].reset_index(drop=True)
