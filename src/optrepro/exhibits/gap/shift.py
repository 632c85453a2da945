"""Exhibit gap-shift: dynamic rules and fixed candidates with a change of data, batch size or noise in mid-training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

TITLES = {"before": "Before", "after": "After", "overall": "Overall"}


def figure(material: Material) -> Figure:
    """A column for each shift: curves, and below the differences after it to the fixed candidate picked for then."""
    scores, curves = material.tables["gap-shift-scores"], material.tables["gap-shift-curves"]
    studies = dict(list(scores.groupby("study", sort=False)))
    rows = scores.drop_duplicates("optimizer").reset_index(drop=True)
    y = dict(zip(rows.optimizer, panels.row_positions(rows), strict=True))
    height = 4.6 * len(rows) + 40
    page = style.page(material, height=72 + height)
    parts: Any = page.subfigures(2, 1, height_ratios=[72, height])
    above, below = parts
    trained = above.subplots(1, len(studies), squeeze=False)[0]
    after = below.subplots(1, len(studies), sharey=True, squeeze=False)[0]
    shown = _shown(scores)
    for axes, differences, (study, own) in zip(trained, after, studies.items(), strict=True):
        _curves(axes, curves[curves.study == study], own, shown)
        compared = own.assign(reference=own.after_reference, difference=own.after_difference)
        compared = compared.assign(**{f"difference_{end}": own[f"after_difference_{end}"] for end in ("low", "high")})
        if compared.difference.notna().any():
            panels.difference_panel(differences, compared, [y[key] for key in own.optimizer])
        differences.set_xlabel("points at the end, over the one\npicked for after the shift (paired)")
        differences.locator_params(axis="x", nbins=4)
    trained[0].set_ylabel("test accuracy (%)")
    above.legend(*trained[0].get_legend_handles_labels(), ncols=4, loc="outside lower center", handlelength=1.9)
    panels.name_rows(after[0], rows, list(rows.label), list(y.values()))
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per shift and optimizer: accuracies and differences in each phase, recovery, choices, failures."""
    scores, choices = material.tables["gap-shift-scores"], material.tables["gap-shift-choices"]
    columns: dict[str, Any] = {
        "shift": scores["shift"],
        "optimizer": [label for _, own in scores.groupby("study", sort=False) for label in panels.row_labels(own)],
        "group": scores.group,
        "learning rate": [f"{rate:g}" for rate in scores.learning_rate],
    }
    for phase in TITLES:
        columns[f"{phase} (%)"] = _texts(scores, phase)
        best = scores.optimizer == scores[f"{phase}_reference"]
        differences = _texts(scores, f"{phase}_difference")
        columns[f"{phase}: difference to best fixed (points)"] = [
            "best fixed" if is_best else text for is_best, text in zip(best, differences, strict=True)
        ]
    for runs, kind in (("tuning", "reference"), ("test runs", "hindsight")):
        columns[f"best fixed in {runs}"] = [_phases(row, kind) for row in scores.to_dict("records")]
    columns["recovery (steps)"] = [_steps(row) for row in scores.to_dict("records")]
    columns["recovered (% of runs)"] = [style.percent(share, 0) for share in scores.recovered]
    for phase in ("before", "after"):
        columns[f"choices {phase} (%)"] = [
            _chosen(choices, row["study"], row["optimizer"], phase) for row in scores.to_dict("records")
        ]
    columns |= {"seeds": scores.seeds, "diverged": scores.diverged, "diverged in tuning": scores.tuning_diverged}
    return pd.DataFrame(columns)


def _shown(scores: pd.DataFrame) -> list[str]:
    """The fixed candidates that are picked for some phase, some rules and the best one overall, and the controls."""
    picked = {key for phase in TITLES for key in scores[f"{phase}_reference"]}
    fixed = [key for key in scores[scores.group == "fixed"].optimizer.unique() if key in picked]
    dynamic = scores[scores.group == "dynamic"].groupby("optimizer", sort=False).overall.mean()
    return list(dict.fromkeys([*fixed, *panels.SHOWN_RULES, *dynamic.nlargest(1).index, *panels.SHOWN_CONTROLS]))


def _curves(axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame, keys: list[str]) -> None:
    """Test accuracy during training; the dotted line is the shift."""
    ranked = scores.assign(reference=scores.after_reference, rank=-scores.after)
    panels.curve_panel(axes, curves, ranked, [key for key in keys if key in set(scores.optimizer)])
    axes.axvline(scores.remaining.iloc[0], color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
    axes.set(title=scores["shift"].iloc[0].capitalize(), ylabel="")


def _texts(scores: pd.DataFrame, name: str) -> list[str]:
    ends = 100 * scores[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    return [style.interval(mean, low, high, 2) for mean, low, high in ends]


def _phases(row: dict[Any, Any], kind: str) -> str:
    """The phases in which the row's optimizer is the ``_reference`` or ``_hindsight``, or a dash."""
    return ", ".join(phase for phase in TITLES if row[f"{phase}_{kind}"] == row["optimizer"]) or "–"


def _steps(row: dict[Any, Any]) -> str:
    if np.isinf(row["recovery"]):
        return f"> {row['remaining']}"
    return style.number(row["recovery"])


def _chosen(choices: pd.DataFrame, study: str, optimizer: str, phase: str) -> str:
    """Shares of the candidates in %, such as "0.5: 90, 0.9: 10"; a dash without choices."""
    own = choices[(choices.study == study) & (choices.optimizer == optimizer)]
    shares = sorted((float(row["candidate"]), row[phase]) for row in own.to_dict("records"))
    return ", ".join(f"{candidate:g}: {style.percent(share, 0)}" for candidate, share in shares) or "–"
