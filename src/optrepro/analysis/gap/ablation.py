"""Ablation of the greedy rule: rows that differ from a score in one setting, and rows by batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from optrepro.analysis import columns, comparison
from optrepro.analysis.results import StudyResults

SCORE = ("score", "self_term", "candidates")  # settings that define a score; any other setting is a variation of it
GLOBAL = ("select", "global")  # no variation: one choice for all tensors is the default of most rules
VARIED = {
    "select": "one choice per tensor",
    "momentum": "number of candidates",
    "betas": "number of candidates",
    "score_ema": "smoothing of the score",
    "hysteresis": "hysteresis",
    "lr_modulation": "steps of equal power",
}


def variants(*studies: StudyResults) -> pd.DataFrame:
    """One row per study and optimizer: the columns of `comparison.scores`, and the variation.

    Further columns: study; varied ("score", a value of VARIED, or the group of a row without a score); base (the row
    with the same score and no variation, or "") and base_difference, _low, _high (paired over the test seeds, NaN for
    the base itself).
    """
    return pd.concat([_variants(study) for study in studies], ignore_index=True)


def batch_sizes(*studies: StudyResults) -> pd.DataFrame:
    """One row per study and optimizer: the columns of `comparison.scores`, study and batch_size."""
    parts = []
    for study in studies:
        size = int(study.facts.settings["batch_size"])
        parts.append(comparison.scores(study).assign(study=study.facts.study, batch_size=size))
    return pd.concat(parts, ignore_index=True)


def varied(entry: Mapping[str, Any]) -> str:
    """The variation of a row of the config: see `variants`.

    Raises: ValueError for a dynamic row with two variations, whose effects cannot be separated.
    """
    if entry["group"] != "dynamic":
        return str(entry["group"])
    changes = [
        VARIED.get(name, name)
        for name, value in entry["settings"].items()
        if name not in SCORE and (name, value) != GLOBAL
    ]
    if len(changes) > 1:
        raise ValueError(f"{entry['label']} varies {' and '.join(changes)}; a row of an ablation must vary one of them")
    return changes[0] if changes else "score"


def _variants(study: StudyResults) -> pd.DataFrame:
    optimizers = study.facts.optimizers
    bases = {_score(entry): key for key, entry in optimizers.items() if varied(entry) == "score"}
    results = comparison.test_scores(study)
    rows = []
    scores = comparison.scores(study)
    for key in scores.optimizer:
        base = bases.get(_score(optimizers[key]), "") if optimizers[key]["group"] == "dynamic" else ""
        difference = comparison.paired_difference(results, key, base if base in results else None)
        own = {"varied": varied(optimizers[key]), "base": base, **columns.interval("base_difference", difference)}
        rows.append(own)
    return pd.concat([scores, pd.DataFrame(rows)], axis=1).assign(study=study.facts.study)


def _score(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """The class and the score of a row, which a variation has in common with its base."""
    return (entry["class"], *(entry["settings"].get(name) for name in SCORE))
