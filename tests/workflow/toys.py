"""Parts that stand outside the package: a kind of study with its runner, a table, an exhibit and an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field

from optrepro.analysis.results import StudyResults
from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import COLUMNS
from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import Batch, Count, Run, Scale, Study, determining


class SignDescent(torch.optim.Optimizer):
    """The optimizer: a step of the length `lr` against the sign of every gradient."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        """Take a step; the loss before it, where a closure gives one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p -= group["lr"] * p.grad.sign()
        return loss


class DiceStudy(Study):
    """The kind: dice that are thrown."""

    runner: ClassVar[str] = "toys"

    kind: Literal["toys.DiceStudy"] = "toys.DiceStudy"
    throws: Annotated[Count, Field(description="Throws of each die.")]
    dice: Annotated[dict[str, Count], Field(description="Sides of each die, by its name.")]

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each die."""
        settings = fingerprint([determining(self), scale.seed])
        for name in self.dice:
            run = Run(study_id, "table", name, "test", None, 0, derive_seed(scale.seed, study_id, name), settings)
            yield Batch(study_id, name, name, (run,), (), settings)

    def repetitions_in_words(self) -> str:
        """The number of throws."""
        return f"{self.throws} throws of each die."


def run(study: DiceStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """The runner: what a die shows, throw by throw."""
    (row,) = batch.runs
    sides = study.dice[row.optimizer]
    thrown = torch.randint(1, sides + 1, (study.throws,), generator=torch.Generator().manual_seed(row.seed))
    facts = (row.id, row.study, row.workload, row.optimizer, row.role, float("nan"), 0)
    rows = [(*facts, step, "shown", float(value)) for step, value in enumerate(thrown)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def means(study: StudyResults) -> pd.DataFrame:
    """The table: the mean of each die."""
    return study.runs.groupby("optimizer", sort=False).value.mean().rename("mean").reset_index()


def figure(material: Material) -> Figure:
    """The exhibit's figure: a bar for each die."""
    page = style.page(material, height=40)
    axes = page.subplots()
    axes.bar(material.tables["toy-means"].optimizer, material.tables["toy-means"]["mean"])
    axes.set(xlabel="die", ylabel="mean")
    return page


def table(material: Material) -> pd.DataFrame:
    """The exhibit's table."""
    return material.tables["toy-means"]
