"""Rules for the claims about POP: the policy compared with tuned optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from optrepro.analysis.intervals import Interval
from optrepro.analysis.pop import generalization, outside
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import (
    Outcome,
    Verdict,
    better,
    interval_of,
    judged,
    met,
    p_value,
    signed,
    together,
    too_few,
)
from optrepro.catalogue import Margin
from optrepro.conventions import POP

STRICT = Margin()


def policy_outperforms(
    study: StudyResults, *, collection: str, groups: Sequence[str], margin: Margin = STRICT
) -> Verdict:
    """Holds if the policy is better than every optimizer of the groups at the trained horizon; in part than some.

    They are compared by improvement and by digits of the regret, paired over the functions.
    """
    compared = generalization.compare(study, [_run(study, collection)], [study.facts.settings["budget"]])
    against, text = _against(compared, groups, margin)
    return judged([outcome for outcomes in against.values() for outcome in outcomes], text)


def policy_outperforms_beyond_horizon(
    study: StudyResults, *, groups: Sequence[str], multiples: Sequence[int], margin: Margin = STRICT
) -> Verdict:
    """Holds if at every multiple of the horizon the policy beats every optimizer of the groups; in part if at some.

    The comparison is that of `policy_outperforms`, on the prior's test functions.
    """
    table = generalization.budgets(study)
    table = table[table.collection == generalization.PRIOR]
    return _in_every_case({f"{m} times the horizon": table[table.multiple == m] for m in multiples}, groups, margin)


def policy_outperforms_in_dimensions(
    study: StudyResults, *, policy: str, groups: Sequence[str], dimensions: Sequence[int], margin: Margin = STRICT
) -> Verdict:
    """Holds if in every dimension the policy beats every optimizer of the groups; in part if in some.

    The comparison is that of `policy_outperforms`, on functions of the prior, for the given policy.
    """
    table = generalization.dimensions(study, policy)
    cases = {f"{d} dimensions": table[table.dimension == d] for d in dimensions}
    return _in_every_case(cases, groups, margin, policy)


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
        ahead.append(met(bool(first.all() and beaten.all())))
        leader: Any = best.loc[outside.EVERY]
        evidence.append(
            f"{budget} evaluations: first in {first.sum()} of {len(first)} classes, beats {beaten.sum()} of "
            f"{len(beaten)}; rank {own[outside.EVERY]:.2f} to {leader.label} {leader['rank']:.2f}"
        )
    problems = int(table[table.group == outside.EVERY].problems.max())
    return judged(ahead, f"{problems} problems; {'; '.join(evidence)}")


def ablation_is_worse(study: StudyResults, *, policy: str, margin: Margin = STRICT) -> Verdict:
    """Holds if the standard policy is better than this one on the benchmark by both measures; in part by one of them.

    The measures are improvement and digits of the regret, paired over the functions.
    """
    if few := too_few(study.facts.study, study.facts.settings["repetitions"], "training"):
        return few
    row: Any = generalization.ablation(study).set_index("optimizer").loc[policy]
    outcomes, evidence = [], []
    for measure in generalization.MEASURES:
        difference, p = interval_of(row, f"vlse_{measure}_difference"), row[f"vlse_{measure}_p"]
        lead = Interval(-difference.mean, -difference.high, -difference.low)
        outcomes.append(better(lead, getattr(margin, measure)))
        evidence.append(f"{measure} {signed(lead)} ({p_value(p)})")
    text = f"standard less {row.group} {row.label}, {row.benchmark_functions} functions: {', '.join(evidence)}"
    return judged(outcomes, text)


def _in_every_case(
    cases: Mapping[str, pd.DataFrame], groups: Sequence[str], margin: Margin, policy: str = POP
) -> Verdict:
    """Holds if by each measure the policy is better than every optimizer in every case; in part in some."""
    ahead, evidence = [], []
    for case, compared in cases.items():
        if compared.empty:
            raise KeyError(case)
        against, text = _against(compared, groups, margin, policy)
        ahead += [together(outcomes) for outcomes in against.values()]
        evidence.append(f"{case}: {text}")
    return judged(ahead, "; ".join(evidence))


def _against(
    compared: pd.DataFrame, groups: Sequence[str], margin: Margin, policy: str = POP
) -> tuple[dict[str, list[Outcome]], str]:
    """By measure, whether the policy is better than each optimizer of the groups; the counts and the strongest one.

    Raises: KeyError if the policy or all of the groups have no results.
    """
    own = compared.set_index("optimizer").loc[policy]
    others = compared[compared.group.isin(groups)]
    if others.empty:
        raise KeyError(" or ".join(groups))
    found, evidence = {}, []
    for measure in generalization.MEASURES:
        leads = [interval_of(row, f"{measure}_difference") for row in others.to_dict("records")]
        found[measure] = [better(lead, getattr(margin, measure)) for lead in leads]
        hardest: Any = others.sort_values(f"{measure}_difference").iloc[0]
        lead, p = interval_of(hardest, f"{measure}_difference"), hardest[f"{measure}_p"]
        evidence.append(
            f"{measure} {own[measure]:.3f}, beats {found[measure].count(Outcome.MET)} of {len(leads)}; "
            f"{hardest.label}: {signed(lead)} ({p_value(p)})"
        )
    return found, f"{own.functions:,} functions; {'; '.join(evidence)}"


def _run(study: StudyResults, collection: str) -> str:
    """The collection's name. Raises: KeyError if it is not in the study's config."""
    if collection not in study.facts.settings["collections"]:
        raise KeyError(collection)
    return collection
