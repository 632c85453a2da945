"""The claims of the papers, judged by rules that a row of ``claims.yaml`` names.

A rule is a function from studies to a verdict and the numbers it rests on. "Matches or is above" means here that the
95 % interval of the paired difference does not lie wholly below 0, "beats" that it lies wholly above 0. The evidence
prints the interval, since a wide one excludes little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from optrepro import catalogue
from optrepro.analysis.claims import gap, lto, pop, principle, vlse
from optrepro.analysis.claims.verdict import NOT_RUN, Verdict
from optrepro.analysis.results import StudyResults
from optrepro.catalogue import Claim

# by the names of the functions, with dashes
RULES: dict[str, Callable[..., Verdict]] = {
    rule.__name__.replace("_", "-"): rule
    for rule in (
        gap.matches_best_fixed,
        gap.matches_at_every_rate,
        gap.one_rule_at_every_rate,
        gap.highest_accuracy,
        gap.beats_controls,
        gap.beats_controls_everywhere,
        gap.switches,
        gap.adapts_after_shift,
        principle.fastest_member,
        principle.no_family_wins_everywhere,
        principle.expected_families_win,
        principle.decay_rate_predicts_choice,
        principle.stationary_over_memories,
        principle.self_term_lowers_choice,
        vlse.reaches_optimum,
        pop.policy_outperforms,
        pop.policy_outperforms_beyond_horizon,
        pop.policy_outperforms_in_dimensions,
        pop.ablation_is_worse,
        lto.descends_fastest,
        lto.descends_fastest_where_other_diverges,
        lto.descends_fastest_and_longer,
    )
}


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
    if claim.rule not in RULES:
        raise ValueError(f"claim {claim.id}: rule = {claim.rule!r} is not one of {sorted(RULES)}")
    settings = dict(claim.settings)
    needed = settings.pop("studies")
    for name in needed:
        if name not in studies:
            return Verdict(NOT_RUN, f"{name} has not been run")
        facts = studies[name].facts
        if facts.missing:
            return Verdict(NOT_RUN, f"{name}: {len(facts.missing)} of {facts.expected_runs} runs are missing")
    try:
        return RULES[claim.rule](*(studies[name] for name in needed), **settings)
    except KeyError as absent:
        # the claim names an optimizer, toy or function that this scale's config leaves out
        return Verdict(NOT_RUN, f"{absent.args[0]} is not among the runs")
