"""The claims of the papers, judged by rules that a row of ``claims.yaml`` names.

A rule is a function from studies to a verdict and the numbers it rests on. "Matches or is above" means here that the
95 % interval of the paired difference does not lie wholly below 0, "beats" that it lies wholly above 0. The evidence
prints the interval, since a wide one excludes little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from optrepro import catalogue
from optrepro.analysis import comparison, concept, families, generalization, lto, shift
from optrepro.analysis.intervals import Interval, mean_interval
from optrepro.analysis.results import StudyResults
from optrepro.catalogue import Claim

HOLDS: Literal["holds"] = "holds"
IN_PART: Literal["holds in part"] = "holds in part"
FAILS: Literal["fails"] = "fails"
NOT_RUN: Literal["not run"] = "not run"
VERDICTS = (HOLDS, IN_PART, FAILS, NOT_RUN)
ALPHA = 0.05
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and its interval on one line


class Verdict(NamedTuple):
    """How a claim stands, and the measured numbers behind it."""

    verdict: Literal["holds", "holds in part", "fails", "not run"]
    evidence: str


Rule = Callable[..., Verdict]
_RULES: dict[str, Rule] = {}


def verdicts(*studies: StudyResults, files: Sequence[Path]) -> pd.DataFrame:
    """One row per claim: id, system, statement, source, number, exhibit, criterion, verdict, evidence.

    A claim without exhibit, or whose studies are absent or have missing runs, is "not run" and says why.

    Args:
        studies: whatever has been run; a claim's ``settings.studies`` names those that its rule takes.
        files: the claims file.

    Raises: ConfigError for a file that is no list of claims, ValueError for a rule that does not exist.
    """
    at_hand = {study.facts.study: study for study in studies}
    rows = []
    for claim in catalogue.claims(Path(files[0])):
        verdict, evidence = judge(claim, at_hand)
        row = claim.model_dump(include={"id", "system", "statement", "source", "number", "exhibit", "criterion"})
        rows.append({**row, "verdict": verdict, "evidence": evidence})
    return pd.DataFrame(rows)


def judge(claim: Claim, studies: Mapping[str, StudyResults]) -> Verdict:
    """The verdict on one claim. Raises: ValueError for a rule that does not exist."""
    if claim.exhibit is None or claim.rule is None:
        return Verdict(NOT_RUN, "not built yet")
    if claim.rule not in _RULES:
        raise ValueError(f"claim {claim.id}: rule = {claim.rule!r} is not one of {sorted(_RULES)}")
    settings = dict(claim.settings)
    needed = settings.pop("studies")
    for name in needed:
        if name not in studies:
            return Verdict(NOT_RUN, f"{name} has not been run")
        facts = studies[name].facts
        if facts.missing:
            return Verdict(NOT_RUN, f"{name}: {len(facts.missing)} of {facts.expected_runs} runs are missing")
    try:
        return _RULES[claim.rule](*(studies[name] for name in needed), **settings)
    except KeyError as absent:
        # the claim names an optimizer, toy or function that this scale's config leaves out
        return Verdict(NOT_RUN, f"{absent.args[0]} is not among the runs")


def rule(function: Rule) -> Rule:
    """Registers a rule under its name, with dashes."""
    _RULES[function.__name__.replace("_", "-")] = function
    return function


@rule
def matches_best_fixed(study: StudyResults, *, optimizers: Sequence[str]) -> Verdict:
    """Holds if every optimizer matches or is above the fixed candidate that the sweep picks; in part if some do.

    Where the loss is compared, an optimizer of which a test run diverged does not match.
    """
    table = comparison.scores(study).set_index("optimizer")
    reached, evidence = [], []
    for key in optimizers:
        row = table.loc[key]
        lost = row.diverged if study.facts.criterion == "loss" else 0
        reached.append(_not_below(_interval(row, "difference")) and not lost)
        evidence.append(
            f"{row.label}: {_gain(study, _interval(row, 'difference'))}" + f", {lost} diverged" * bool(lost)
        )
    reference = study.facts.label(table.reference.iloc[0])
    return _all_or_some(reached, f"{_ahead_of(study)} {reference}: {'; '.join(evidence)}")


@rule
def matches_at_every_rate(*studies: StudyResults, optimizer: str) -> Verdict:
    """Holds if, at each learning rate of the sweep, the optimizer matches the candidate that is best at that rate.

    Both on validation data over the tuning seeds; in part if at more than half of the rates.
    """
    reached, evidence = [], []
    for study in studies:
        accuracy = comparison.tuning_accuracy(study)
        if len(accuracy) < 2:
            return Verdict(NOT_RUN, f"{study.facts.study}: one tuning seed gives no interval")
        fixed = _of_group(study, "fixed")
        below = []
        for rate in accuracy[optimizer].columns:
            best = max(fixed, key=lambda key: accuracy[key, rate].mean())
            matched = _not_below(mean_interval(accuracy[optimizer, rate] - accuracy[best, rate]))
            reached.append(matched)
            below += [] if matched else [f"{rate:g}"]
        evidence.append(f"{study.facts.study}: below at {', '.join(below) or 'none'} of {len(accuracy[optimizer].T)}")
    text = "; ".join(evidence) + " learning rates"
    if all(reached):
        return Verdict(HOLDS, text)
    return Verdict(IN_PART if sum(reached) > len(reached) / 2 else FAILS, text)


@rule
def one_rule_at_every_rate(*studies: StudyResults, optimizers: Sequence[str] = (), group: str = "dynamic") -> Verdict:
    """Holds if one rule matches the best fixed candidate in every study, wherever that candidate trains at all.

    It matches where its mean lies in that candidate's 95 % interval or is better, on validation data over the tuning
    seeds, and every learning rate of the sweep counts at which `comparison.rates` says that the candidate trains. In
    part if the rule that does so most often does at more than half of these rates, else it fails. Rules are the
    optimizers named, or all of the group that every study has. The evidence adds the paired differences.
    """
    table = comparison.held(*studies)
    table = table[table.rule.isin(optimizers) if optimizers else table.group == group]
    for study in studies:
        if study.facts.settings["tuning_repetitions"] < 2:
            return Verdict(NOT_RUN, f"{study.facts.study}: one tuning seed gives no interval")
    common = table.groupby("rule", sort=False).filter(lambda rows: len(rows) == len(studies))
    if common.empty:
        raise KeyError(" or ".join(optimizers) or group)
    sums = common.groupby("rule", sort=False)[["rates", "inside", "held", "above"]].sum()
    best = sums.sort_values(["inside", "held", "above"], ascending=False, kind="stable").index[0]
    own: Any = common[common.rule == best]
    parts = [
        f"{row.study} {row.inside} of {row.rates}" + f" (not at {row.outside})" * bool(row.outside)
        for row in own.itertuples()
    ]
    matched, cells = int(sums.inside[best]), int(sums.rates[best])
    others = f", the most of {len(sums)} rules" if len(sums) > 1 else ""
    paired = f"by paired differences at {int(sums.held[best])}"
    evidence = f"{own.label.iloc[0]}: at {matched} of {cells} learning rates{others}: {', '.join(parts)}; {paired}"
    if matched == cells:
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if matched > cells / 2 else FAILS, evidence)


@rule
def highest_accuracy(study: StudyResults, *, optimizer: str, among: Sequence[str]) -> Verdict:
    """Holds if the optimizer beats the best of the others; in part if it matches or is above it; else fails."""
    accuracy = comparison.final(study, "test_accuracy")
    best = str(accuracy[[key for key in among if key != optimizer]].mean().idxmax())
    difference = mean_interval(comparison.paired_difference(accuracy, optimizer, best))
    evidence = f"points above {study.facts.label(best)}: {_points(difference)}"
    if difference.low > 0:
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if _not_below(difference) else FAILS, evidence)


@rule
def beats_controls(study: StudyResults, *, pairs: Mapping[str, Sequence[str]]) -> Verdict:
    """Holds if every optimizer beats each of its controls; in part if at least one optimizer does."""
    beaten, evidence = _against_controls(study, comparison.test_scores(study), pairs)
    return _all_or_some(beaten, f"{_unit(study)}: {'; '.join(evidence)}")


@rule
def beats_controls_everywhere(*studies: StudyResults, pairs: Mapping[str, Sequence[str]], at: str = "tuned") -> Verdict:
    """Holds if in every study every optimizer beats each of its controls; in part if at least one does in one.

    `at`: "tuned", in the test runs; "every rate", on average over the learning rates of the sweep, on validation data.
    """
    beaten, evidence = [], []
    for study in studies:
        scores = comparison.test_scores(study) if at == "tuned" else comparison.over_rates(study)
        own, words = _against_controls(study, scores, pairs)
        beaten += own
        evidence.append(f"{study.facts.study} ({_unit(study)}): {'; '.join(words)}")
    return _all_or_some(beaten, "; ".join(evidence))


@rule
def switches(*studies: StudyResults, optimizer: str, most: float, compared: bool = False) -> Verdict:
    """Holds if the smallest candidate gets a smaller share of choices than `most` in every study; in part in some.

    `compared`: the evidence also says how far the rule is from that fixed candidate in the test runs.
    """
    switched, evidence = [], []
    for study in studies:
        overall = comparison.overall_shares(study, optimizer)
        smallest = min(overall.index, key=float)
        switched.append(bool(overall[smallest] < most))
        words = f"{study.facts.study}: {smallest} in {100 * overall[smallest]:.1f}{NBSP}% of the choices"
        evidence.append(words + _beside_fixed(study, optimizer, float(smallest)) * compared)
    return _all_or_some(switched, f"at the tuned learning rate: {'; '.join(evidence)}")


@rule
def adapts_after_shift(*studies: StudyResults, optimizer: str) -> Verdict:
    """Holds if after each shift the optimizer beats the fixed candidate best there in tuning; in part if after some."""
    table = shift.scores(*studies)
    own = table[table.optimizer == optimizer]
    if len(own) < len(studies):
        raise KeyError(optimizer)
    evidence = [f"{row['shift']}: {_points(_interval(row, 'after_difference'))}" for row in own.to_dict("records")]
    text = f"{own.label.iloc[0]}, points above the best fixed candidate at the end: {'; '.join(evidence)}"
    return _all_or_some([bool(low > 0) for low in own.after_difference_low], text)


@rule
def fastest_member(study: StudyResults) -> Verdict:
    """Holds if on no toy an equal-power member ends lower than the optimal one; in part if fewer than half do on each.

    Members are the random ones, at the power that suits them best, and the identity at the same power.
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


@rule
def no_family_wins_everywhere(study: StudyResults) -> Verdict:
    """Holds if two different families win clearly, each on some toy; in part if winners differ less clearly.

    The winner has the lowest median gap at the end; it is clear if it ends lower than the runner-up from so many
    starts that the sign test's p is below 0.05.
    """
    winners, clear, evidence = [], set(), []
    for toy, (winner, runner_up, p) in _winners(study).items():
        winners.append(winner)
        clear |= {winner} if p < ALPHA else set()
        evidence.append(f"{toy}: {winner} before {runner_up} ({_p(p)})")
    if len(set(winners)) == 1:
        return Verdict(FAILS, "; ".join(evidence))
    return Verdict(HOLDS if len(clear) > 1 else IN_PART, "; ".join(evidence))


@rule
def expected_families_win(study: StudyResults, *, expected: Mapping[str, Sequence[str]]) -> Verdict:
    """Holds if on every toy one of the expected families has the lowest median gap at the end; in part on some."""
    winners = _winners(study)
    won = [winners[toy][0] in names for toy, names in expected.items()]
    return _all_or_some(won, "; ".join(f"{toy}: {winners[toy][0]}" for toy in expected))


@rule
def decay_rate_predicts_choice(study: StudyResults) -> Verdict:
    """Holds if the candidate that is best for rho^k is the best one in every window; in part if in more than half."""
    measured, rates = concept.best_candidates(study).debiased, concept.decay_rates(study)
    candidates = sorted(concept.scores(study).candidate.dropna().unique())
    predicted = {key: candidates[int(concept.geometric_score(candidates, rho).argmax())] for key, rho in rates.items()}
    agrees = [predicted[key] == value for key, value in measured.items()]
    span = f"rho from {rates.min():.2f} to {rates.max():.2f}"
    evidence = f"the best candidate is the predicted one in {sum(agrees)} of {len(agrees)} windows; {span}"
    if all(agrees):
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if sum(agrees) > len(agrees) / 2 else FAILS, evidence)


@rule
def choice_persists(study: StudyResults) -> Verdict:
    """Holds if the candidate of the largest noise-free score never changes during training; in part at some sizes."""
    chosen = concept.best_candidates(study).debiased.unstack("phase", sort=False)
    evidence = [
        f"batch {size}: {', '.join(f'{c:g}' for c in row)}"
        for size, row in zip(chosen.index, chosen.to_numpy(), strict=True)
    ]
    return _all_or_some(list(chosen.nunique(axis=1) == 1), "; ".join(evidence))


@rule
def self_term_lowers_choice(study: StudyResults) -> Verdict:
    """Holds if noise in R_0 lowers the choice in half of the windows or more and raises it in none; in part in less."""
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


@rule
def reaches_optimum(study: StudyResults, *, optimizer: str, functions: Sequence[str], tolerance: float) -> Verdict:
    """Holds if the median final regret is at most `tolerance` on every function; in part on some."""
    runs = study.runs[(study.runs.optimizer == optimizer) & (study.runs.metric == "regret")]
    final = runs.sort_values("step").groupby(["workload", "seed"], observed=True).value.last()
    medians = final.groupby("workload", observed=True).median()[list(functions)]
    evidence = f"largest median final regret {medians.max():.1e}, on {medians.idxmax()}"
    return _all_or_some([bool(m <= tolerance) for m in medians], evidence)


@rule
def policy_outperforms(study: StudyResults, *, collection: str, groups: Sequence[str]) -> Verdict:
    """Holds if the policy's improvement beats every optimizer of the groups at the trained horizon; in part some.

    "Beats" is here a positive mean difference over the functions, and Wilcoxon's p below 0.05 after Holm's correction.
    """
    compared = generalization.compare(study, [_run(study, collection)], [study.facts.settings["budget"]])
    return _all_or_some(*_against(compared, groups))


@rule
def policy_outperforms_beyond_horizon(
    study: StudyResults, *, groups: Sequence[str], multiples: Sequence[int]
) -> Verdict:
    """Holds if at every multiple of the horizon the policy beats every optimizer of the groups; in part if at some.

    As in `policy_outperforms`, on the prior's test functions.
    """
    table = generalization.budgets(study)
    table = table[table.collection == generalization.PRIOR]
    return _in_every_case({f"{m} times the horizon": table[table.multiple == m] for m in multiples}, groups)


@rule
def policy_outperforms_in_dimensions(
    study: StudyResults, *, policy: str, groups: Sequence[str], dimensions: Sequence[int]
) -> Verdict:
    """Holds if in every dimension the policy beats every optimizer of the groups; in part if in some.

    As in `policy_outperforms`, on functions of the prior, with the policy that is named.
    """
    table = generalization.dimensions(study, policy)
    return _in_every_case({f"{d} dimensions": table[table.dimension == d] for d in dimensions}, groups, policy)


@rule
def ablation_is_worse(study: StudyResults, *, policy: str) -> Verdict:
    """Holds if the policy is worse than the standard one on the benchmark by improvement and digits; in part by one.

    "Worse" is a negative mean paired difference over the functions, and Wilcoxon's p below 0.05.
    """
    row: Any = generalization.ablation(study).set_index("optimizer").loc[policy]
    worse, evidence = [], []
    for measure in generalization.MEASURES:
        difference, p = _interval(row, f"vlse_{measure}_difference"), row[f"vlse_{measure}_p"]
        worse.append(bool(difference.mean < 0 and p < ALPHA))
        evidence.append(f"{measure} {_signed(difference)} ({_p(p)})")
    text = f"{row.group} {row.label} less standard, {row.benchmark_functions} functions: {', '.join(evidence)}"
    return _all_or_some(worse, text)


@rule
def descends_fastest(study: StudyResults, *, optimizer: str, figure: str) -> Verdict:
    """Holds if in every panel of the figure the area is smaller than that of every other optimizer; in part in some.

    "Smaller" is a 95 % interval of the paired difference that lies wholly below 0. Variants do not compete.
    """
    return _all_or_some(*_fastest(study, optimizer, figure))


@rule
def descends_fastest_where_other_diverges(study: StudyResults, *, optimizer: str, figure: str, other: str) -> Verdict:
    """As `descends_fastest`, and holds only if in every panel the other ends above its start, or most runs diverge."""
    ahead, evidence = _fastest(study, optimizer, figure)
    curves = lto.curves(study)
    own = curves[(curves.figure == figure) & (curves.optimizer == other)]
    if own.empty:
        raise KeyError(other)
    above, ends = [], []
    for _, rows in own.groupby("panel", sort=False):
        first, last = rows["mean"].iloc[0], rows["mean"].iloc[-1]
        diverged = rows.diverged_share.iloc[-1]
        above.append(bool(last > first or diverged > 0.5))
        share = f", {100 * diverged:.0f}{NBSP}% of the runs diverged" if diverged else ""
        ends.append(f"{rows.dataset.iloc[0]} {first:.2f} to {last:.2f}{share}")
    text = f"{evidence}; {study.facts.label(other)}: {', '.join(ends)}"
    if not any(ahead):
        return Verdict(FAILS, text)
    return Verdict(HOLDS if all(ahead) and all(above) else IN_PART, text)


@rule
def descends_fastest_and_longer(study: StudyResults, *, optimizer: str, figure: str) -> Verdict:
    """As `descends_fastest`, and holds only if beyond the trained horizon the objective falls in every panel.

    It falls where the 95 % interval of the paired difference lies wholly above 0; fails if it falls in none.
    """
    ahead, evidence = _fastest(study, optimizer, figure)
    beyond = lto.progress(study)
    own = beyond[(beyond.figure == figure) & (beyond.optimizer == optimizer)] if len(beyond) else beyond
    if own.empty:
        raise KeyError("a run beyond the trained horizon")
    falls = [bool(low > 0) for low in own.progress_low]
    by = ", ".join(f"{row['dataset']} {_signed(_interval(row, 'progress'))}" for row in own.to_dict("records"))
    text = f"{evidence}; from iteration {own.trained.iloc[0]} to {own.end.iloc[0]} it falls by: {by}"
    if not any(falls):
        return Verdict(FAILS, text)
    return Verdict(HOLDS if all(ahead) and all(falls) else IN_PART, text)


def _against_controls(
    study: StudyResults, scores: pd.DataFrame, pairs: Mapping[str, Sequence[str]]
) -> tuple[list[bool], list[str]]:
    """Whether each optimizer beats all of its controls by these scores, seeds by optimizers, and by how much."""
    beaten, evidence = [], []
    for optimizer, controls in pairs.items():
        differences = {key: mean_interval(comparison.paired_difference(scores, optimizer, key)) for key in controls}
        beaten.append(all(d.low > 0 for d in differences.values()))
        ahead = "above" if study.facts.criterion == "accuracy" else "below"
        words = ", ".join(f"{_gain(study, d)} {ahead} {study.facts.label(key)}" for key, d in differences.items())
        evidence.append(f"{study.facts.label(optimizer)}: {words}")
    return beaten, evidence


def _beside_fixed(study: StudyResults, optimizer: str, memory: float) -> str:
    """The difference of the optimizer to the fixed candidate of this memory, in words; "" without such a candidate."""
    fixed = [key for key in _of_group(study, "fixed") if comparison.candidate_of(study.facts.optimizers[key]) == memory]
    if not fixed:
        return ""
    difference = mean_interval(comparison.paired_difference(comparison.test_scores(study), optimizer, fixed[0]))
    return f", {_ahead_of(study)} {study.facts.label(fixed[0])}: {_gain(study, difference)}"


def _fastest(study: StudyResults, optimizer: str, figure: str) -> tuple[list[bool], str]:
    """Panels of a figure in which the optimizer's area is smaller than every other's; the hardest other, in words.

    Raises: KeyError if the figure or the optimizer has no results.
    """
    titles = {panel: title for panel, title in lto.panels(study).items() if panel.startswith(f"{figure}-")}
    if not titles:
        raise KeyError(figure)
    areas: Any = lto.areas(study)
    ahead, evidence = [], []
    for panel, title in titles.items():
        own = areas.loc[panel].dropna(axis=1, how="all")
        others = [key for key in own if key != optimizer and key not in lto.VARIANTS]
        differences = {key: mean_interval((own[optimizer] - own[key]).dropna()) for key in others}
        ahead.append(all(difference.high < 0 for difference in differences.values()))
        hardest = max(others, key=lambda key: differences[key].mean)
        percent = Interval(*(100 * x / own[hardest].mean() for x in differences[hardest]))
        interval = f"{percent.mean:+.1f}{NBSP}[{percent.low:+.1f},{NBSP}{percent.high:+.1f}]{NBSP}%"
        evidence.append(f"{title}: {interval} to {study.facts.label(str(hardest))}")
    return ahead, f"area: {'; '.join(evidence)}"


def _in_every_case(
    cases: Mapping[str, pd.DataFrame], groups: Sequence[str], policy: str = generalization.POLICY
) -> Verdict:
    """Holds if the policy beats every optimizer of the groups in every case; in part if in some."""
    ahead, evidence = [], []
    for case, compared in cases.items():
        if compared.empty:
            raise KeyError(case)
        beaten, text = _against(compared, groups, policy)
        ahead.append(all(beaten))
        evidence.append(f"{case}: {text}")
    return _all_or_some(ahead, "; ".join(evidence))


def _against(
    compared: pd.DataFrame, groups: Sequence[str], policy: str = generalization.POLICY
) -> tuple[list[bool], str]:
    """Which optimizers of the groups the policy beats by improvement, and in words: how many, and the hardest of them.

    Raises: KeyError if the policy or all of the groups have no results.
    """
    own = compared.set_index("optimizer").loc[policy]
    others = compared[compared.group.isin(groups)]
    if others.empty:
        raise KeyError(" or ".join(groups))
    beaten = (others.improvement_difference > 0) & (others.improvement_p < ALPHA)
    hardest: Any = others[beaten == beaten.all()].sort_values("improvement_difference").iloc[0]
    text = (
        f"improvement {own.improvement:.3f} on {own.functions:,} functions, beats {sum(beaten)} of {len(beaten)}; "
        f"{hardest.label}: {_signed(_interval(hardest, 'improvement_difference'))} ({_p(hardest.improvement_p)})"
    )
    return [bool(b) for b in beaten], text


def _run(study: StudyResults, collection: str) -> str:
    """The collection. Raises: KeyError if it is not in the study's config."""
    if collection not in study.facts.settings["collections"]:
        raise KeyError(collection)
    return collection


def _winners(study: StudyResults) -> dict[str, tuple[str, str, float]]:
    """By toy: the family with the lowest median final gap, the runner-up, and the sign test's p between them.

    The identity, plain gradient descent, is no family and does not compete.
    """
    winners = {}
    for workload in study.runs.workload.unique():
        kind, toy = workload.split("/")
        if kind == "families":
            gaps = families.final_gaps(study, workload).drop(columns="identity")
            first, second = gaps.median().sort_values().index[:2]
            winners[toy] = (str(first), str(second), families.sign_test(gaps, first, second)[1])
    return winners


def _of_group(study: StudyResults, group: str) -> list[str]:
    return [key for key, entry in study.facts.optimizers.items() if entry["group"] == group]


def _not_below(interval: Interval) -> bool:
    """Whether the interval does not lie wholly below 0; without an interval (NaN) it cannot be said to match."""
    return interval.high >= 0


def _interval(row: Any, name: str) -> Interval:
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _all_or_some(reached: Sequence[bool], evidence: str) -> Verdict:
    if all(reached):
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if any(reached) else FAILS, evidence)


def _unit(study: StudyResults) -> str:
    """Of differences in the study's criterion."""
    return "points" if study.facts.criterion == "accuracy" else "nats"


def _ahead_of(study: StudyResults) -> str:
    """The direction in which a difference above 0 is better."""
    return "points above" if study.facts.criterion == "accuracy" else "nats below"


def _gain(study: StudyResults, interval: Interval) -> str:
    """A difference in the study's criterion, above 0 where it is better: points of accuracy, or nats of loss."""
    if study.facts.criterion == "accuracy" or interval.low == interval.high == 0:
        return _points(interval)
    return _signed(interval)


def _points(interval: Interval) -> str:
    """A difference in accuracy in percentage points, with its interval."""
    if interval.low == interval.high == 0:
        return "0 (the runs are identical)"
    mean, low, high = (100 * x for x in interval)
    return f"{mean:+.2f}{NBSP}[{low:+.2f},{NBSP}{high:+.2f}]"


def _signed(interval: Interval) -> str:
    """A difference with its interval."""
    mean, low, high = interval
    return f"{mean:+.3f}{NBSP}[{low:+.3f},{NBSP}{high:+.3f}]"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
