"""The claims of the papers, judged by the rules that their rows in ``claims.yaml`` name by import path.

A rule is a function from studies to a verdict and the numbers it rests on. "Matches or is above" means here that the
95 % interval of the paired difference does not lie wholly below 0, "beats" that it lies wholly above 0. The evidence
prints the interval, since a wide one excludes little.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from optrepro import catalogue
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import NOT_RUN, Verdict
from optrepro.catalogue import Claim


def verdicts(*studies: StudyResults, folder: str) -> pd.DataFrame:
    """One row per claim: id, paper, statement, source, number, exhibit, criterion, verdict, evidence.

    A claim without exhibit, or whose studies are absent or have missing runs, is "not run" and says why.

    Args:
        studies: whatever has been run; a claim's ``settings.studies`` names those that its rule takes.
        folder: the config folder, whose papers make the claims.

    Raises: ConfigError for a file that is no list of claims, or for a rule that does not exist.
    """
    at_hand = {study.facts.study: study for study in studies}
    rows = []
    papers = catalogue.load(Path(folder)).papers
    for claim in catalogue.claims(Path(folder)):
        verdict, evidence = judge(claim, at_hand)
        row = claim.model_dump(include={"id", "statement", "source", "number", "exhibit", "criterion"})
        title = papers[claim.system].title
        rows.append({"id": row.pop("id"), "paper": title, **row, "verdict": verdict, "evidence": evidence})
    return pd.DataFrame(rows)


def judge(claim: Claim, studies: Mapping[str, StudyResults]) -> Verdict:
    """The verdict on one claim. Raises: ConfigError for a rule that does not exist."""
    if claim.exhibit is None or claim.rule is None:
        return Verdict(NOT_RUN, "not built yet")
    rule = catalogue.named(claim.rule, f"claim {claim.id}: rule")
    settings = dict(claim.settings)
    needed = settings.pop("studies")
    for name in needed:
        if name not in studies:
            return Verdict(NOT_RUN, f"{name} has not been run")
        facts = studies[name].facts
        if facts.missing:
            return Verdict(NOT_RUN, f"{name}: {len(facts.missing)} of {facts.expected_runs} runs are missing")
    try:
        verdict: Verdict = rule(*(studies[name] for name in needed), **settings)
        return verdict
    except KeyError as absent:
        # the claim names an optimizer, toy or function that this scale's config leaves out
        return Verdict(NOT_RUN, f"{absent.args[0]} is not among the runs")
