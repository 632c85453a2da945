"""Judging a claim on made-up studies, by the name of its rule."""

import importlib
from pathlib import Path

from optrepro.analysis import judging
from optrepro.catalogue import Claim

CONFIG = Path(__file__).parents[2] / "config"
MODULES = ("gap.claims", "gap.principle", "pop.claims", "lto.claims", "vlse.claims")


def judge(rule, *studies, margin=None, **settings):
    settings["studies"] = [study.facts.study for study in studies]
    return judging.judge(made(rule, settings, margin), {study.facts.study: study for study in studies})


def made(rule, settings, margin=None):
    """A claim that the rule of this name judges, written with dashes."""
    name = rule.replace("-", "_")
    [path] = [m for m in MODULES if hasattr(importlib.import_module(f"optrepro.analysis.{m}"), name)] or ["gap.claims"]
    words = {"statement": "s", "source": "t", "criterion": "c"}
    return Claim(
        id="a", exhibit="x", rule=f"optrepro.analysis.{path}.{name}", settings=settings, margin=margin, **words
    )
