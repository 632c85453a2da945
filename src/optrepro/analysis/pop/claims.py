"""Rules for the claims about POP: the policy compared with tuned optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from optrepro.analysis.pop import generalization, outside
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import Verdict, all_or_some, interval_of, p_value, signed
from optrepro.conventions import ALPHA, POP


def policy_outperforms(study: StudyResults, *, collection: str, groups: Sequence[str]) -> Verdict:
    """Holds if the policy beats every optimizer of the groups at the trained horizon; in part if it beats some.

    The policy beats an optimizer if its mean improvement over the functions is larger and the p-value of Wilcoxon's
    test, after Holm's correction, is below 0.05.
    """
    compared = generalization.compare(study, [_run(study, collection)], [study.facts.settings["budget"]])
    return all_or_some(*_against(compared, groups))


def policy_outperforms_beyond_horizon(
    study: StudyResults, *, groups: Sequence[str], multiples: Sequence[int]
) -> Verdict:
    """Holds if at every multiple of the horizon the policy beats every optimizer of the groups; in part if at some.

    The comparison is that of `policy_outperforms`, on the prior's test functions.
    """
    table = generalization.budgets(study)
    table = table[table.collection == generalization.PRIOR]
    return _in_every_case({f"{m} times the horizon": table[table.multiple == m] for m in multiples}, groups)


def policy_outperforms_in_dimensions(
    study: StudyResults, *, policy: str, groups: Sequence[str], dimensions: Sequence[int]
) -> Verdict:
    """Holds if in every dimension the policy beats every optimizer of the groups; in part if in some.

    The comparison is that of `policy_outperforms`, on functions of the prior, for the given policy.
    """
    table = generalization.dimensions(study, policy)
    return _in_every_case({f"{d} dimensions": table[table.dimension == d] for d in dimensions}, groups, policy)


def first_on_collection(study: StudyResults, *, group: str, significance: float) -> Verdict:
    """Holds if at every budget the policy is ahead of the optimizers of the group; in part if at some.

    It is ahead at a budget if its average rank is the lowest in every class of problems, and if over all problems
    Wilcoxon's p, Holm-corrected, is below `significance` against each of them, in its favour.
    """
    table = outside.ranks(study)
    if POP not in set(table.optimizer):
        raise KeyError(POP)
    ahead, evidence = [], []
    for budget, at_budget in table.groupby("budget", sort=False):
        others = at_budget[at_budget.family == group]
        own: Any = at_budget[at_budget.optimizer == POP].set_index("group")["rank"]
        best = others.loc[others.groupby("group", sort=False)["rank"].idxmin()].set_index("group")
        first = own < best["rank"]
        overall = others[others.group == outside.EVERY]
        beaten = (overall.wins > overall.losses) & (overall.p < significance)
        ahead.append(bool(first.all() and beaten.all()))
        leader: Any = best.loc[outside.EVERY]
        evidence.append(
            f"{budget} evaluations: first in {first.sum()} of {len(first)} classes, beats {beaten.sum()} of "
            f"{len(beaten)}; rank {own[outside.EVERY]:.2f} to {leader.label} {leader['rank']:.2f}"
        )
    problems = int(table[table.group == outside.EVERY].problems.max())
    return all_or_some(ahead, f"{problems} problems; {'; '.join(evidence)}")


def ablation_is_worse(study: StudyResults, *, policy: str) -> Verdict:
    """Holds if the policy is worse than the standard one on the benchmark by both measures; in part by one of them.

    It is worse if the mean paired difference over the functions is negative and Wilcoxon's p is below 0.05. The
    measures are improvement and digits.
    """
    row: Any = generalization.ablation(study).set_index("optimizer").loc[policy]
    worse, evidence = [], []
    for measure in generalization.MEASURES:
        difference, p = interval_of(row, f"vlse_{measure}_difference"), row[f"vlse_{measure}_p"]
        worse.append(bool(difference.mean < 0 and p < ALPHA))
        evidence.append(f"{measure} {signed(difference)} ({p_value(p)})")
    text = f"{row.group} {row.label} less standard, {row.benchmark_functions} functions: {', '.join(evidence)}"
    return all_or_some(worse, text)


def _in_every_case(cases: Mapping[str, pd.DataFrame], groups: Sequence[str], policy: str = POP) -> Verdict:
    """Holds if the policy beats every optimizer of the groups in every case; in part if in some."""
    ahead, evidence = [], []
    for case, compared in cases.items():
        if compared.empty:
            raise KeyError(case)
        beaten, text = _against(compared, groups, policy)
        ahead.append(all(beaten))
        evidence.append(f"{case}: {text}")
    return all_or_some(ahead, "; ".join(evidence))


def _against(compared: pd.DataFrame, groups: Sequence[str], policy: str = POP) -> tuple[list[bool], str]:
    """Whether the policy beats each optimizer of the groups, and the evidence: the count and the strongest optimizer.

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
        f"{hardest.label}: {signed(interval_of(hardest, 'improvement_difference'))} ({p_value(hardest.improvement_p)})"
    )
    return [bool(b) for b in beaten], text


def _run(study: StudyResults, collection: str) -> str:
    """The collection's name. Raises: KeyError if it is not in the study's config."""
    if collection not in study.facts.settings["collections"]:
        raise KeyError(collection)
    return collection
