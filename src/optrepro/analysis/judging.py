"""Verdicts on the claims of the papers, by the rules whose import paths are in ``claims.yaml``.

A rule is a function from studies to a verdict and its evidence. "Matches or is above" means that the 95 % interval of
the paired difference is not wholly below 0, "beats" that it is wholly above 0. The evidence includes the interval,
because a wide one excludes little.
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

    A claim is "not run", with the reason as evidence, if it has no exhibit or if its studies are absent or incomplete.

    Args:
        studies: all studies that have been run; a claim's ``settings.studies`` names the arguments of its rule.
        folder: the config folder, which holds the papers' claims.

    Raises: ConfigError if a file is not a list of claims or a rule does not exist.
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
    """The verdict on one claim. Raises: ConfigError if its rule does not exist."""
    if claim.exhibit is None or claim.rule is None:
        return Verdict(NOT_RUN, "not built yet")
    rule = catalogue.named(claim.rule, f"claim {claim.id}: rule")
    settings = dict(claim.settings)
    needed = settings.pop("studies", ())
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
        # the claim names an optimizer, toy loss or function that is not part of this scale
        return Verdict(NOT_RUN, f"{absent.args[0]} is not among the runs")
