"""Rules for the claims about training with GAP: dynamic rules compared with fixed candidates and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optrepro.analysis import comparison
from optrepro.analysis.gap import rules, shift
from optrepro.analysis.intervals import Interval, mean_interval
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import (
    NBSP,
    Outcome,
    Verdict,
    as_good,
    better,
    interval_of,
    judged,
    met,
    points,
    signed,
    together,
    too_few,
)
from optrepro.catalogue import Margin

STRICT = Margin()


def matches_best_fixed(study: StudyResults, *, optimizers: Sequence[str], margin: Margin = STRICT) -> Verdict:
    """Holds if every optimizer is as good as the fixed candidate that the sweep picks; in part if some are.

    One that took the same candidate in every choice is so trivially. If the criterion is loss, one with a diverged test
    run is not. The evidence also states how often the smallest candidate was chosen, and the difference to the fixed
    candidate that is best on test data.
    """
    table = comparison.scores(study).set_index("optimizer")
    reference, top = (table[column].iloc[0] for column in ("reference", "top"))
    allowed = margin.of(study.facts.criterion, table.loc[reference][f"test_{study.facts.criterion}"])
    outcomes, evidence, on_test = [], [], []
    for key in optimizers:
        row = table.loc[key]
        difference = interval_of(row, "difference")
        lost = row.diverged if study.facts.criterion == "loss" else 0
        outcome = Outcome.MISSED if lost else as_good(difference, allowed)
        shares = _shares(study, key)
        fixed = shares is not None and shares.max() == 1
        outcomes.append(Outcome.TRIVIAL if outcome is Outcome.MET and fixed else outcome)
        words = [_gain(study, difference), *_smallest_taken(shares)]
        evidence.append(f"{row.label}: {', '.join(words)}" + f", {lost} diverged" * bool(lost))
        on_test.append(f"{row.label}: {_gain(study, interval_of(row, 'top_difference'))}")
    text = f"{_ahead_of(study)} {study.facts.label(reference)}: {'; '.join(evidence)}"
    if top != reference:
        text += f"; {_ahead_of(study)} {study.facts.label(top)}, the best on test data: {'; '.join(on_test)}"
    return judged(outcomes, text)


def matches_at_every_rate(
    *studies: StudyResults, optimizers: Sequence[str] = (), group: str = "dynamic", margin: Margin = STRICT
) -> Verdict:
    """Holds if one rule is as good as the best fixed candidate at every rate where that trains, in every study.

    They are compared on validation data over the tuning seeds, with the reference of `comparison.rates`. The rule that
    is as good most often decides: the claim holds in part if it is so at more than half of the rates. Rules are the
    given optimizers, or all of the group that every study has. The evidence also states the counts of the controls of
    `comparison.BLIND`, and that of the rule at the rates where one of these is not shown to be.
    """
    if few := _few_tuning_seeds(*studies):
        return few
    table = pd.concat([_at_rates(study, margin) for study in studies], ignore_index=True)
    rules = table[table.rule.isin(optimizers) if optimizers else table.group == group]
    everywhere = rules.groupby("rule", sort=False).filter(lambda rows: rows.study.nunique() == len(studies))
    if everywhere.empty:
        raise KeyError(" or ".join(optimizers) or group)
    counts = everywhere.groupby("rule", sort=False)[["good", "open"]].sum()
    best = counts.sort_values(["good", "open"], ascending=False, kind="stable").index[0]
    own = everywhere[everywhere.rule == best]
    others = f", the most of {len(counts)} rules" if len(counts) > 1 else ""
    evidence = (
        f"{own.label.iloc[0]}: as good at {own.good.sum()} of {len(own)} learning rates{others}, open at "
        f"{own.open.sum()}; {_beside_blind(table, own)}; {', '.join(_by_study(own))}"
    )
    return judged(own.outcome, evidence, share=0.5)


def one_rule(*studies: StudyResults, margin: Margin = STRICT) -> Verdict:
    """Holds if one rule is as good as the best fixed candidate at every rate of every study, and ahead of its controls.

    All is compared on validation data over the tuning seeds, see `rules.differences`: with the controls, which are the
    mean of the buffers and random switching with the rule's own shares, by the mean over the rates. The rule that meets
    most of this, and misses least, decides: the claim holds in part if it meets more than half. The evidence has all.
    """
    if few := _few_tuning_seeds(*studies):
        return few
    table = rules.deciding(rules.differences(*studies, points=margin.points, percent=margin.percent))
    wanted = {(study.facts.study, name) for study in studies for name in (rules.FIXED, rules.MEAN, rules.RANDOM)}
    compared = {
        str(key): own
        for key, own in table.groupby("optimizer", sort=False)
        if wanted <= set(zip(own.study, own.beside, strict=True))
    }
    if not compared:
        raise KeyError("a rule with both of its controls in every study")
    order = sorted(compared.values(), key=lambda own: (-(own.outcome == "met").sum(), (own.outcome == "missed").sum()))
    outcomes = [Outcome[outcome.upper()] for outcome in order[0].outcome]
    return judged(outcomes, "; ".join(map(_beside_all, order)), share=0.5)


def highest_accuracy(study: StudyResults, *, optimizer: str, among: Sequence[str], margin: Margin = STRICT) -> Verdict:
    """Holds if the optimizer is better than the best of the others, by test mean."""
    accuracy = comparison.final(study, "test_accuracy")
    best = str(accuracy[[key for key in among if key != optimizer]].mean().idxmax())
    difference = mean_interval(comparison.paired_difference(accuracy, optimizer, best))
    evidence = f"points above {study.facts.label(best)}: {points(difference)}"
    return judged([better(difference, margin.of("accuracy", 1.0))], evidence)


def beats_controls(
    *studies: StudyResults, pairs: Mapping[str, Sequence[str]], at: str = "tuned", margin: Margin = STRICT
) -> Verdict:
    """Holds if in every study every optimizer is better than each of its controls; in part if one is in one.

    With `at` "tuned" they are compared in the test runs, with "every rate" by the mean over the learning rates of the
    sweep, on validation data.
    """
    if at != "tuned" and (few := _few_tuning_seeds(*studies)):
        return few
    outcomes, evidence = [], []
    for study in studies:
        scores = comparison.test_scores(study) if at == "tuned" else comparison.over_rates(study)
        own, words = _against_controls(study, scores, pairs, margin)
        outcomes += own
        evidence.append(f"{study.facts.study} ({_unit(study)}): {'; '.join(words)}")
    return judged(outcomes, "; ".join(evidence))


def switches(*studies: StudyResults, optimizer: str, most: float, compared: bool = False) -> Verdict:
    """Holds if the share of the smallest candidate among the choices is below `most` in every study; in part in some.

    With `compared`, the evidence also states the difference of the rule to that fixed candidate in the test runs.
    """
    switched, evidence = [], []
    for study in studies:
        overall = comparison.overall_shares(study, optimizer)
        smallest = min(overall.index, key=float)
        switched.append(met(bool(overall[smallest] < most)))
        words = f"{study.facts.study}: {smallest} in {100 * overall[smallest]:.1f}{NBSP}% of the choices"
        evidence.append(words + _beside_fixed(study, optimizer, float(smallest)) * compared)
    return judged(switched, f"at the tuned learning rate: {'; '.join(evidence)}")


def adapts_after_shift(*studies: StudyResults, optimizer: str, margin: Margin = STRICT) -> Verdict:
    """Holds if the optimizer is better than the best fixed candidate of tuning after each shift; in part after some."""
    table = shift.scores(*studies)
    own = table[table.optimizer == optimizer]
    if len(own) < len(studies):
        raise KeyError(optimizer)
    differences = {row["shift"]: interval_of(row, "after_difference") for row in own.to_dict("records")}
    evidence = [f"{shifted}: {points(difference)}" for shifted, difference in differences.items()]
    text = f"{own.label.iloc[0]}, points above the best fixed candidate at the end: {'; '.join(evidence)}"
    return judged([better(difference, margin.of("accuracy", 1.0)) for difference in differences.values()], text)


def adapting_pays(
    *studies: StudyResults, optimizers: Sequence[str], fixed: str = "mean", margin: Margin = STRICT
) -> Verdict:
    """Holds if the adaptive rule that gains most over a fixed filter is better in every study; in part in some.

    The gain is the fixed filter's error over the rule's, at the end of the test runs: a geometric mean over the studies
    and their seeds, which are paired. The error is the share of wrong answers, or the loss where that is the criterion.
    The evidence has the least and the largest gain, and the latter in each study.
    """
    logs = pd.concat({study.facts.study: _log_errors(study)[[fixed, *optimizers]] for study in studies})
    logs = logs.rsub(logs[fixed], axis=0).drop(columns=fixed)
    gains = np.exp(logs.groupby(level=0, sort=False).mean().mean())
    label, best = studies[0].facts.label, str(gains.idxmax())
    by_study = {str(study): mean_interval(own[best].dropna()) for study, own in logs.groupby(level=0, sort=False)}
    factors = [f"{study} {_factor(gain)}" for study, gain in by_study.items()]
    evidence = (
        f"error of the {label(fixed)} over that of the rule, mean of {len(studies)} tasks: {gains.min():.3f} "
        f"({label(str(gains.idxmin()))}) to {gains.max():.3f} ({label(best)}); the latter: {', '.join(factors)}"
    )
    return judged([better(gain, margin.percent / 100) for gain in by_study.values()], evidence)


def _beside_all(own: pd.DataFrame) -> str:
    """How often one rule is as good as the best fixed candidate, and ahead of each control, in words."""

    def count(name: str) -> str:
        outcomes = own[own.beside == name].outcome
        return f"{(outcomes == 'met').sum()} of {len(outcomes)}"

    return (
        f"{own.label.iloc[0]}: as good at {count(rules.FIXED)} learning rates and worse at "
        f"{((own.beside == rules.FIXED) & (own.outcome == 'missed')).sum()}, ahead of the mean of the buffers in "
        f"{count(rules.MEAN)} studies, and of random switching in {count(rules.RANDOM)}"
    )


def _few_tuning_seeds(*studies: StudyResults) -> Verdict | None:
    """The verdict where a study has too few tuning seeds."""
    seeds = {study.facts.study: study.runs[study.runs.role == "tune"].seed.nunique() for study in studies}
    return next((few for study, count in seeds.items() if (few := too_few(study, count, "tuning"))), None)


def _at_rates(study: StudyResults, margin: Margin) -> pd.DataFrame:
    """`comparison.rates` of a study where the reference trains, with the columns outcome, good and open."""
    rates = comparison.rates(study)
    rates = rates[rates.trains].reset_index(drop=True)
    criterion = study.facts.criterion
    levels = comparison.tuning_scores(study).mean()
    outcomes = []
    for row in rates.to_dict("records"):
        allowed = margin.of(criterion, levels[row["best"], row["learning_rate"]])
        lost = row["failed"] and criterion == "loss"
        outcomes.append(Outcome.MISSED if lost else as_good(interval_of(row, "difference"), allowed))
    found = pd.Series(outcomes, dtype=object)
    return rates.assign(outcome=found, good=found == Outcome.MET, open=found == Outcome.OPEN)


def _by_study(own: pd.DataFrame) -> list[str]:
    """The counts of a rule in each study, and the rates at which it is worse."""
    words = []
    for study, rows in own.groupby("study", sort=False):
        worse = ", ".join(f"{rate:g}" for rate in rows[rows.outcome == Outcome.MISSED].learning_rate)
        words.append(f"{study} {rows.good.sum()} of {len(rows)}" + f" (worse at {worse})" * bool(worse))
    return words


def _beside_blind(table: pd.DataFrame, own: pd.DataFrame) -> str:
    """The counts of the controls of `BLIND`, and that of a rule at the rates where one is not shown to be as good."""
    blind = table[table.rule.isin(comparison.BLIND)]
    reached = [f"{label} at {rows.good.sum()}" for label, rows in blind.groupby("label", sort=False)]
    beaten = blind[~blind.good].groupby(["study", "learning_rate"]).size().index
    telling = own.set_index(["study", "learning_rate"]).good.reindex(beaten)
    return f"{', '.join(reached)}; at {int(telling.sum())} of the {len(telling)} where one of these is not shown to be"


def _against_controls(
    study: StudyResults, scores: pd.DataFrame, pairs: Mapping[str, Sequence[str]], margin: Margin
) -> tuple[list[Outcome], list[str]]:
    """Whether each optimizer is better than all its controls, and the evidence; `scores` are seeds by optimizers."""
    outcomes, evidence = [], []
    for optimizer, controls in pairs.items():
        differences = {key: mean_interval(comparison.paired_difference(scores, optimizer, key)) for key in controls}
        allowed = {key: margin.of(study.facts.criterion, scores[key].mean()) for key in controls}
        outcomes.append(together(better(difference, allowed[key]) for key, difference in differences.items()))
        ahead = "above" if study.facts.criterion == "accuracy" else "below"
        words = ", ".join(f"{_gain(study, d)} {ahead} {study.facts.label(key)}" for key, d in differences.items())
        evidence.append(f"{study.facts.label(optimizer)}: {words}")
    return outcomes, evidence


def _shares(study: StudyResults, optimizer: str) -> pd.Series | None:
    """The shares of an optimizer's candidates among its choices; None without recorded choices."""
    try:
        return comparison.overall_shares(study, optimizer)
    except KeyError:
        return None


def _smallest_taken(shares: pd.Series | None) -> list[str]:
    """How often the smallest candidate was chosen, in words; empty without recorded choices."""
    if shares is None:
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


def _log_errors(study: StudyResults) -> pd.DataFrame:
    """Logarithm of the share of wrong answers, or of the loss, at the end of the test runs: seeds by optimizers."""
    scores = comparison.test_scores(study)
    errors = 1 - scores if study.facts.criterion == "accuracy" else -scores
    return errors.map(np.log)


def _factor(log: Interval) -> str:
    """A factor with its interval, from those of its logarithm."""
    mean, low, high = (f"{np.exp(x):.3f}" for x in log)
    return f"{mean}{NBSP}[{low},{NBSP}{high}]"
