"""Verdicts on the claims of the papers, by the rules whose import paths are in ``claims.yaml``.

A rule is a function from studies, and the claim's margin where it has one, to a verdict and its evidence. What "as good
as" and "better" mean is in `optrepro.analysis.verdict`. The evidence includes the intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from optrepro import catalogue
from optrepro.analysis.results import Facts, StudyResults
from optrepro.analysis.verdict import NOT_RUN, Verdict, too_few
from optrepro.catalogue import Claim
from optrepro.studies import kinds


def verdicts(*studies: StudyResults, folder: str) -> pd.DataFrame:
    """One row per claim: id, paper, statement, source, number, setting, exhibit, criterion, margin, verdict, evidence.

    Further columns: scale, of the results; proxy, whether they stand in for the paper's setting; setup, what was run,
    in words. A claim is "not run", with the reason as evidence, if it has no exhibit or if its studies are absent or
    incomplete.

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
        row = claim.model_dump(include={"id", "statement", "source", "number", "setting", "exhibit", "criterion"})
        facts = [at_hand[name].facts for name in claim.settings.get("studies", ()) if name in at_hand]
        scales = list(dict.fromkeys(each.scale for each in facts))
        rows.append(
            {
                "id": row.pop("id"),
                "paper": papers[claim.system].title,
                **row,
                "margin": claim.margin.in_words() if claim.margin else None,
                "scale": " and ".join(scales) or None,
                "proxy": any(map(claim.is_proxy, scales)),
                "setup": "; ".join(dict.fromkeys(map(_setup, facts))) or None,
                "verdict": verdict,
                "evidence": evidence,
            }
        )
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
    for name in needed:
        tests = studies[name].runs[studies[name].runs.role == "test"]
        if few := too_few(name, tests.seed.nunique(), "test"):
            return few
    if claim.margin is not None:
        settings["margin"] = claim.margin
    try:
        verdict: Verdict = rule(*(studies[name] for name in needed), **settings)
    except KeyError as absent:
        # the claim names an optimizer, toy loss or function that is not part of this scale
        return Verdict(NOT_RUN, f"{absent.args[0]} is not among the runs")
    return verdict


def _setup(facts: Facts) -> str:
    """What a study runs, in words: its data, network, and seeds or starts."""
    study = kinds.study(facts.settings)
    parts = (facts.dataset, study.network_in_words(), study.repetitions_in_words().removesuffix("."))
    return ", ".join(part for part in parts if part)
