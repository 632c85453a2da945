"""Puts a judged row into a scale of the user's own, so that the workflow runs and draws it with everything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from optrepro.newcomers.judgement import Judgement
from optrepro.newcomers.tasks import KEY
from optrepro.settings import NAME, ConfigError
from optrepro.studies.comparison import Comparison


def check(path: Path, budget: int) -> None:
    """Check before anything runs that a row can be added. Raises: ConfigError that says what is allowed."""
    if path.suffix != ".yaml" or re.fullmatch(NAME, path.stem) is None:
        raise ConfigError(f"add = {str(path)!r} is not allowed; it is a scale file, as config/mine.yaml")
    if path.exists():
        raise ConfigError(f"add = {str(path)!r} is not allowed: the file exists, and would lose its comments")
    if budget > 1:
        raise ConfigError(f"add = {str(path)!r} is not allowed with budget = {budget}: in a scale all rows tune alike")


def write(judgement: Judgement, path: Path, base: str) -> Path:
    """Write a scale that extends `base` by the newcomer's row in each study of the judgement."""
    studies: dict[str, Any] = {}
    for task in judgement.plan.tasks.values():
        study = judgement.plan.config.studies[task.study]
        assert isinstance(study, Comparison)
        row = study.optimizers[KEY].model_dump(mode="json", by_alias=True, exclude_defaults=True)
        studies[task.study] = {"optimizers": {judgement.target.slug: row}}
    own = "" if judgement.target.folder is None else f"# PYTHONPATH must hold the folder of {judgement.target.path}.\n"
    text = yaml.safe_dump({"extends": base, "scale": path.stem, "studies": studies}, sort_keys=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(own + text)
    return path
