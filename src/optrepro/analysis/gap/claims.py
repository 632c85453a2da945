"""Rules for the claims about training with GAP: dynamic rules compared with fixed candidates and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from optrepro.analysis import comparison
from optrepro.analysis.gap import shift
from optrepro.analysis.intervals import Interval, mean_interval
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import (
    FAILS,
    HOLDS,
    IN_PART,
    NBSP,
    NOT_RUN,
    Verdict,
    all_or_some,
    interval_of,
    not_below,
    points,
    signed,
)

COUNTS = ["rates", "inside", "held", "above", "telling", "told"]


def matches_best_fixed(study: StudyResults, *, optimizers: Sequence[str]) -> Verdict:
    """Holds if every optimizer matches or is above the fixed candidate that the sweep picks; in part if some do.

    If the criterion is loss, an optimizer with a diverged test run does not match. The evidence also states how often
    the smallest candidate was chosen, and the difference to the fixed candidate that is best on test data.
    """
    if alone := _one_seed("test", study):
        return alone
    table = comparison.scores(study).set_index("optimizer")
    reached, evidence, on_test = [], [], []
    for key in optimizers:
        row = table.loc[key]
        lost = row.diverged if study.facts.criterion == "loss" else 0
        reached.append(not_below(interval_of(row, "difference")) and not lost)
        words = [_gain(study, interval_of(row, "difference")), *_smallest_taken(study, key)]
        evidence.append(f"{row.label}: {', '.join(words)}" + f", {lost} diverged" * bool(lost))
        on_test.append(f"{row.label}: {_gain(study, interval_of(row, 'top_difference'))}")
    reference, top = (table[column].iloc[0] for column in ("reference", "top"))
    text = f"{_ahead_of(study)} {study.facts.label(reference)}: {'; '.join(evidence)}"
    if top != reference:
        text += f"; {_ahead_of(study)} {study.facts.label(top)}, the best on test data: {'; '.join(on_test)}"
    return all_or_some(reached, text)


def matches_at_every_rate(*studies: StudyResults, optimizer: str) -> Verdict:
    """Holds if, at each learning rate of the sweep, the optimizer matches the candidate that is best at that rate.

    They are compared on validation data over the tuning seeds. The claim holds in part if the optimizer matches at more
    than half of the rates.
    """
    if alone := _one_seed("tune", *studies):
        return alone
    reached, evidence = [], []
    for study in studies:
        accuracy = comparison.tuning_accuracy(study)
        fixed = _of_group(study, "fixed")
        below = []
        for rate in accuracy[optimizer].columns:
            best = max(fixed, key=lambda key: accuracy[key, rate].mean())
            matched = not_below(mean_interval(accuracy[optimizer, rate] - accuracy[best, rate]))
            reached.append(matched)
            below += [] if matched else [f"{rate:g}"]
        evidence.append(f"{study.facts.study}: below at {', '.join(below) or 'none'} of {len(accuracy[optimizer].T)}")
    text = "; ".join(evidence) + " learning rates"
    if all(reached):
        return Verdict(HOLDS, text)
    return Verdict(IN_PART if sum(reached) > len(reached) / 2 else FAILS, text)


def one_rule_at_every_rate(*studies: StudyResults, optimizers: Sequence[str] = (), group: str = "dynamic") -> Verdict:
    """Holds if one rule matches the reference of `comparison.rates` at every rate where it trains, in every study.

    A rule matches if it is `inside` there, on validation data over the tuning seeds. The rule that matches most often
    decides: the claim holds in part if it matches at more than half of these rates, else it fails. Rules are the given
    optimizers, or all of the group that every study has. The evidence also states the paired differences, and the
    counts at the rates where a control of `comparison.BLIND` does not match.
    """
    if alone := _one_seed("tune", *studies):
        return alone
    held = comparison.held(*studies)
    table = held[held.rule.isin(optimizers) if optimizers else held.group == group]
    common = table.groupby("rule", sort=False).filter(lambda rows: len(rows) == len(studies))
    if common.empty:
        raise KeyError(" or ".join(optimizers) or group)
    sums = common.groupby("rule", sort=False)[COUNTS].sum()
    best = sums.sort_values(["inside", "held", "above"], ascending=False, kind="stable").index[0]
    own: Any = common[common.rule == best]
    parts = [
        f"{row.study} {row.inside} of {row.rates}" + f" (not at {row.outside})" * bool(row.outside)
        for row in own.itertuples()
    ]
    matched, cells = int(sums.inside[best]), int(sums.rates[best])
    others = f", the most of {len(sums)} rules" if len(sums) > 1 else ""
    evidence = (
        f"{own.label.iloc[0]}: at {matched} of {cells} learning rates{others}; {_beside_blind(held, sums.loc[best])}; "
        f"{', '.join(parts)}; by paired differences at {int(sums.held[best])}"
    )
    if matched == cells:
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if matched > cells / 2 else FAILS, evidence)


def highest_accuracy(study: StudyResults, *, optimizer: str, among: Sequence[str]) -> Verdict:
    """Holds if the optimizer beats the best of the others; in part if it matches it or is above it."""
    if alone := _one_seed("test", study):
        return alone
    accuracy = comparison.final(study, "test_accuracy")
    best = str(accuracy[[key for key in among if key != optimizer]].mean().idxmax())
    difference = mean_interval(comparison.paired_difference(accuracy, optimizer, best))
    evidence = f"points above {study.facts.label(best)}: {points(difference)}"
    if difference.low > 0:
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if not_below(difference) else FAILS, evidence)


def beats_controls(study: StudyResults, *, pairs: Mapping[str, Sequence[str]]) -> Verdict:
    """Holds if every optimizer beats each of its controls; in part if at least one optimizer does."""
    if alone := _one_seed("test", study):
        return alone
    beaten, evidence = _against_controls(study, comparison.test_scores(study), pairs)
    return all_or_some(beaten, f"{_unit(study)}: {'; '.join(evidence)}")


def beats_controls_everywhere(*studies: StudyResults, pairs: Mapping[str, Sequence[str]], at: str = "tuned") -> Verdict:
    """Holds if in every study every optimizer beats each of its controls; in part if at least one does in one.

    With `at` "tuned" they are compared in the test runs, with "every rate" by the mean over the learning rates of the
    sweep, on validation data.
    """
    if alone := _one_seed("test" if at == "tuned" else "tune", *studies):
        return alone
    beaten, evidence = [], []
    for study in studies:
        scores = comparison.test_scores(study) if at == "tuned" else comparison.over_rates(study)
        own, words = _against_controls(study, scores, pairs)
        beaten += own
        evidence.append(f"{study.facts.study} ({_unit(study)}): {'; '.join(words)}")
    return all_or_some(beaten, "; ".join(evidence))


def switches(*studies: StudyResults, optimizer: str, most: float, compared: bool = False) -> Verdict:
    """Holds if the share of the smallest candidate among the choices is below `most` in every study; in part in some.

    With `compared`, the evidence also states the difference of the rule to that fixed candidate in the test runs.
    """
    switched, evidence = [], []
    for study in studies:
        overall = comparison.overall_shares(study, optimizer)
        smallest = min(overall.index, key=float)
        switched.append(bool(overall[smallest] < most))
        words = f"{study.facts.study}: {smallest} in {100 * overall[smallest]:.1f}{NBSP}% of the choices"
        evidence.append(words + _beside_fixed(study, optimizer, float(smallest)) * compared)
    return all_or_some(switched, f"at the tuned learning rate: {'; '.join(evidence)}")


def adapts_after_shift(*studies: StudyResults, optimizer: str) -> Verdict:
    """Holds if the optimizer beats the best fixed candidate of tuning after every shift; in part after some."""
    if alone := _one_seed("test", *studies):
        return alone
    table = shift.scores(*studies)
    own = table[table.optimizer == optimizer]
    if len(own) < len(studies):
        raise KeyError(optimizer)
    evidence = [f"{row['shift']}: {points(interval_of(row, 'after_difference'))}" for row in own.to_dict("records")]
    text = f"{own.label.iloc[0]}, points above the best fixed candidate at the end: {'; '.join(evidence)}"
    return all_or_some([bool(low > 0) for low in own.after_difference_low], text)


def _one_seed(role: str, *studies: StudyResults) -> Verdict | None:
    """The verdict "not run" if a study has one seed for this role ("test" or "tune"), and so no interval."""
    for study in studies:
        if study.runs[study.runs.role == role].seed.nunique() < 2:
            words = {"test": "test", "tune": "tuning"}[role]
            return Verdict(NOT_RUN, f"{study.facts.study}: one {words} seed gives no interval")
    return None


def _against_controls(
    study: StudyResults, scores: pd.DataFrame, pairs: Mapping[str, Sequence[str]]
) -> tuple[list[bool], list[str]]:
    """Whether each optimizer beats all its controls, and the evidence; `scores` are seeds by optimizers."""
    beaten, evidence = [], []
    for optimizer, controls in pairs.items():
        differences = {key: mean_interval(comparison.paired_difference(scores, optimizer, key)) for key in controls}
        beaten.append(all(d.low > 0 for d in differences.values()))
        ahead = "above" if study.facts.criterion == "accuracy" else "below"
        words = ", ".join(f"{_gain(study, d)} {ahead} {study.facts.label(key)}" for key, d in differences.items())
        evidence.append(f"{study.facts.label(optimizer)}: {words}")
    return beaten, evidence


def _beside_blind(held: pd.DataFrame, own: pd.Series) -> str:
    """The counts of the controls of `BLIND`, and that of a rule at the rates where one of them does not match."""
    blind = held[held.rule.isin(comparison.BLIND)].groupby("label", sort=False)[COUNTS].sum()
    reached = [f"{label} at {row.inside}" for label, row in blind.iterrows()]
    return f"{', '.join(reached)}; at {own.told} of the {own.telling} where one of these is not"


def _smallest_taken(study: StudyResults, optimizer: str) -> list[str]:
    """How often the optimizer chose its smallest candidate, in words; empty without recorded choices."""
    try:
        shares = comparison.overall_shares(study, optimizer)
    except KeyError:
        return []
    smallest = min(shares.index, key=float)
    share = shares[smallest]
    return [f"always took {smallest}" if share == 1 else f"{smallest} in {100 * share:.1f}{NBSP}% of the choices"]


def _beside_fixed(study: StudyResults, optimizer: str, memory: float) -> str:
    """The difference to the fixed candidate of this memory, in words; "" without such a candidate."""
    fixed = [key for key in _of_group(study, "fixed") if comparison.candidate_of(study.facts.optimizers[key]) == memory]
    if not fixed:
        return ""
    difference = mean_interval(comparison.paired_difference(comparison.test_scores(study), optimizer, fixed[0]))
    return f", {_ahead_of(study)} {study.facts.label(fixed[0])}: {_gain(study, difference)}"


def _of_group(study: StudyResults, group: str) -> list[str]:
    return [key for key, entry in study.facts.optimizers.items() if entry["group"] == group]


def _unit(study: StudyResults) -> str:
    """Unit of differences in the study's criterion."""
    return "points" if study.facts.criterion == "accuracy" else "nats"


def _ahead_of(study: StudyResults) -> str:
    """The direction of positive differences, which are better."""
    return "points above" if study.facts.criterion == "accuracy" else "nats below"


def _gain(study: StudyResults, interval: Interval) -> str:
    """A difference in the study's criterion, positive if better: points of accuracy, or nats of loss."""
    if study.facts.criterion == "accuracy" or interval.low == interval.high == 0:
        return points(interval)
    return signed(interval)
