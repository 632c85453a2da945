"""Exhibit pop-vlse-cd: critical-difference diagrams of the policy and all gradient-based optimizers."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from optrepro.conventions import ALPHA
from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

TITLES = {"once": "Baselines tuned once, on the prior", "each": "Baselines tuned for each function"}
SUBSET = "smooth"
POLICIES = ("pop", "pop-trained")


def figure(material: Material) -> Figure:
    """One diagram for each way of tuning the baselines, on the smooth functions."""
    ranks, tests = (
        material.tables[name].query(f"subset == {SUBSET!r}") for name in ("pop-vlse-ranks", "pop-vlse-tests")
    )
    shown = [tuned for tuned in TITLES if (ranks.tuned == tuned).sum() > 1]
    page = style.page(material, height=58.0 * max(1, len(shown)))
    for axes, tuned in zip(page.subplots(max(1, len(shown)), 1, squeeze=False)[:, 0], shown, strict=False):
        own = ranks[ranks.tuned == tuned]
        panels.critical_difference(axes, own, tests[tests.tuned == tuned], bold=POLICIES)
        axes.set_title(f"{TITLES[tuned]}: average rank by regret, {own.problems.iloc[0]} smooth functions", pad=14)
    return page


def table(material: Material) -> pd.DataFrame:
    """Average ranks, Friedman's test, and the optimizers from which each one does not differ significantly."""
    ranks, tests = material.tables["pop-vlse-ranks"], material.tables["pop-vlse-tests"]
    rows = []
    for row in ranks.to_dict("records"):
        labels = ranks.set_index("optimizer").label.drop_duplicates()
        own = tests[(tests.tuned == row["tuned"]) & (tests.subset == row["subset"]) & (tests.p_holm >= ALPHA)]
        others = [
            *own[own["first"] == row["optimizer"]]["second"],
            *own[own["second"] == row["optimizer"]]["first"],
        ]
        rows.append(
            {
                "baselines": TITLES[row["tuned"]],
                "functions": f"{row['problems']} ({row['subset']})",
                "optimizer": row["label"],
                "average rank": f"{row['rank']:.2f}",
                "no other is better on": row["first"],
                "not different from (Holm, 5 %)": ", ".join(labels[key] for key in others) or "–",
                "critical difference": f"{row['critical_difference']:.2f}",
                "Friedman's p": style.p_value(row["friedman_p"]),
                "Iman and Davenport's p": style.p_value(row["iman_davenport_p"]),
            }
        )
    return pd.DataFrame(rows)
