"""Rules for the claims about the principle behind GAP: families of operators, and statistics of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optrepro.analysis.gap import concept, diagnostics, families, greedy
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import (
    FAILS,
    HOLDS,
    IN_PART,
    NBSP,
    Outcome,
    Verdict,
    as_good,
    interval_of,
    judged,
    met,
    p_value,
)
from optrepro.catalogue import Margin
from optrepro.conventions import ALPHA
from optrepro.studies.base import counted

STRICT = Margin()


def fastest_member(study: StudyResults) -> Verdict:
    """Holds if no member of equal power ends below the optimal one on any toy; in part if fewer than half do on each.

    Members are the random ones, at the power that is best for the best of them, and the identity at the same power.
    """
    table = families.curves(study)
    last = table[(table.kind == "members") & table.shown & (table.step == table.step.max())]
    shares, identities, evidence = [], [], []
    for toy, rows in last.groupby("toy", sort=False):
        by = rows.set_index("optimizer")
        shares.append(float(by.ahead["random"]))
        identities.append(bool(by["median"]["identity"] < by["median"]["frobenius"]))
        also = " and the identity" if identities[-1] else ""
        evidence.append(f"{toy}: {100 * shares[-1]:.0f}{NBSP}% of the random members{also}")
    text = f"end lower than the optimal member: {'; '.join(evidence)}"
    if not any(shares) and not any(identities):
        return Verdict(HOLDS, text)
    return Verdict(IN_PART if max(shares) < 0.5 else FAILS, text)


def no_family_wins_everywhere(study: StudyResults) -> Verdict:
    """Holds if two different families win significantly, each on some toy; in part if winners differ otherwise.

    The winner has the lowest median gap at the end; it is significant if the p-value of the sign test against the
    runner-up, over the starts, is below 0.05.
    """
    winners, significant, evidence = [], set(), []
    for toy, (winner, runner_up, p) in _winners(study).items():
        winners.append(winner)
        significant |= {winner} if p < ALPHA else set()
        evidence.append(f"{toy}: {winner} before {runner_up} ({p_value(p)})")
    if len(set(winners)) == 1:
        return Verdict(FAILS, "; ".join(evidence))
    return Verdict(HOLDS if len(significant) > 1 else IN_PART, "; ".join(evidence))


def expected_families_win(study: StudyResults, *, expected: Mapping[str, Sequence[str]]) -> Verdict:
    """Holds if one of the expected families has the lowest final median gap on every toy; in part on some."""
    winners = _winners(study)
    won = [winners[toy][0] in names for toy, names in expected.items()]
    return judged(map(met, won), "; ".join(f"{toy}: {winners[toy][0]}" for toy in expected))


def decay_rate_predicts_choice(study: StudyResults) -> Verdict:
    """Holds if the best candidate for rho^k is the best one in every window; in part in more than half of them."""
    measured, rates = concept.best_candidates(study).debiased, concept.decay_rates(study)
    candidates = sorted(concept.scores(study).candidate.dropna().unique())
    predicted = {key: candidates[int(concept.geometric_score(candidates, rho).argmax())] for key, rho in rates.items()}
    agrees = [predicted[key] == value for key, value in measured.items()]
    span = f"rho from {rates.min():.2f} to {rates.max():.2f}"
    evidence = f"the best candidate is the predicted one in {sum(agrees)} of {len(agrees)} windows; {span}"
    return judged(map(met, agrees), evidence, share=0.5)


def stationary_over_memories(concepts: StudyResults, followed: StudyResults) -> Verdict:
    """Holds if the choice persists and gradients are stationary over the memory of every candidate.

    The choice persists if the candidate with the largest noise-free score is the same throughout training, at each
    batch size of `concepts`. Gradients of `followed` are stationary over a memory 1 / (1 - m) if in every workload R
    without R_0 takes longer than the memory to change by half, and the corrected KPSS tests reject no window of that
    length, or of the next longer one tested. The claim holds in part if some of these conditions are met, for some
    batch size, candidate or workload.
    """
    memories = {m: 1 / (1 - m) for m in sorted(concept.scores(concepts).candidate.dropna().unique())}
    persists, choices = _persistence(concepts)
    slow, changes = _slower_than_memories(followed, memories)
    calm, tests = _calm_over_memories(followed, memories)
    evidence = f"{changes}; {tests}; best candidate early, halfway and late: {choices}"
    return judged(map(met, [*persists, *slow, *calm]), evidence)


def self_term_lowers_choice(study: StudyResults) -> Verdict:
    """Holds if noise in R_0 lowers the choice in at least half of the windows and raises it in none.

    The claim holds in part if the noise lowers the choice in fewer windows, and fails if it raises it in one.
    """
    best = concept.best_candidates(study)
    lower, higher = int((best.paper < best.debiased).sum()), int((best.paper > best.debiased).sum())
    smallest = int((best.paper == best.paper.min()).sum())
    evidence = (
        f"the noise lowers the choice in {lower} of {len(best)} windows and raises it in {higher}; "
        f"the score as written takes {best.paper.min():g} in {smallest}"
    )
    if higher or not lower:
        return Verdict(FAILS, evidence)
    return Verdict(HOLDS if lower >= len(best) / 2 else IN_PART, evidence)


def ends_lowest(study: StudyResults, *, score: str, margin: Margin = STRICT) -> Verdict:
    """Holds if the candidate of the largest score drops as far as the best one; in part at some rates and horizons.

    The best one is the same candidate at all forks of a learning rate; the margin is in per cent of its drop. A score
    that takes the smallest candidate at all of them is as good only trivially.
    """
    table, kept = greedy.outcomes(study), greedy.promises(study)
    own = table[table.score == score]
    outcomes = []
    for row in own.to_dict("records"):
        outcome = as_good(interval_of(row, "gain"), margin.of("loss", row["drop"] - row["gain"]))
        outcomes.append(Outcome.TRIVIAL if outcome is Outcome.MET and row["smallest"] == 1 else outcome)
    after = [_after(int(str(steps)), rows, kept) for steps, rows in own.groupby("horizon")]
    smallest = f"the smallest candidate has the largest score at {100 * own.smallest.mean():.0f}{NBSP}% of the forks"
    return judged(outcomes, "; ".join([smallest, *after]))


def _winners(study: StudyResults) -> dict[str, tuple[str, str, float]]:
    """By toy, the family with the lowest median final gap, the runner-up, and the p-value of the sign test."""
    winners = {}
    for workload in study.runs.workload.unique():
        kind, toy = workload.split("/")
        if kind == "families":
            gaps = families.final_gaps(study, toy)
            first, second = gaps.median().sort_values().index[:2]
            winners[toy] = (str(first), str(second), families.sign_test(gaps, first, second)[1])
    return winners


def _persistence(study: StudyResults) -> tuple[list[bool], str]:
    """Whether the candidate with the largest noise-free score is the same in all phases, by batch size; evidence."""
    chosen = concept.best_candidates(study).debiased.unstack("phase", sort=False)
    evidence = [
        f"batch {size}: {', '.join(f'{c:g}' for c in row)}"
        for size, row in zip(chosen.index, chosen.to_numpy(), strict=True)
    ]
    return list(chosen.nunique(axis=1) == 1), "; ".join(evidence)


def _slower_than_memories(study: StudyResults, memories: Mapping[float, float]) -> tuple[list[bool], str]:
    """Whether R without R_0 takes longer than each memory to change by half, by candidate and workload; evidence.

    Windows do not overlap, so the smallest distance is their length. A half distance that is not larger is only an
    upper bound; whether it exceeds a shorter memory is not resolved, and counts as False.
    """
    table = diagnostics.half_distances(study)
    halves = table[table.part == "memory"].set_index("workload").distance
    first = study.facts.settings["window"]
    slow, evidence = [], []
    for candidate, memory in sorted(memories.items(), reverse=True):
        longer = (halves > first) & (halves > memory)
        slow += longer.tolist()
        unresolved = memory < first and not longer.any()
        words = "not resolved" if unresolved else f"in {sum(longer)} of {len(halves)} workloads"
        evidence.append(f"of {candidate:g} ({memory:.0f} steps) {words}")
    steps = ", ".join(f"{name} {'at most ' * (half <= first)}{half:.0f}" for name, half in halves.items())
    return slow, f"R without R_0 takes longer to change by half than the memory {', '.join(evidence)}: {steps}"


def _calm_over_memories(study: StudyResults, memories: Mapping[float, float]) -> tuple[list[bool], str]:
    """Whether no window as long as the memory is rejected, by candidate and workload; evidence."""
    tests = diagnostics.stationarity(study)
    calm, evidence = [], {}
    for memory in memories.values():
        lengths = tests.length[tests.length >= memory]
        if lengths.empty:
            calm.append(False)
            evidence[memory] = f"of {memory:.0f} steps none (not tested)"
            continue
        length = lengths.min()
        own = tests[tests.length == length]
        calm += (own.groupby("workload").rejected.max() == 0).tolist()
        evidence[length] = (
            f"of {length} steps up to {100 * own.rejected.max():.0f}{NBSP}% "
            f"({100 * own.uncorrected.max():.0f}{NBSP}% without correction)"
        )
    return calm, f"KPSS rejects of the windows {', '.join(evidence.values())}"


def _after(horizon: int, rows: pd.DataFrame, kept: pd.DataFrame) -> str:
    """What came of the choices of a score after so many steps, at all learning rates, in words."""
    shares = kept[kept.horizon == horizon].share
    lowest, fixed = (np.average(rows[name], weights=rows.forks) for name in ("lowest", "best_lowest"))
    return (
        f"after {counted(horizon, 'step')} {100 * shares.min():.0f} to {100 * shares.max():.0f}{NBSP}% of the promised "
        f"drop is there, and the candidate of the largest score ends lowest at {100 * lowest:.0f}{NBSP}% of "
        f"{rows.forks.sum()} forks, the one that is best on average at {100 * fixed:.0f}{NBSP}%"
    )
