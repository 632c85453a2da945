"""Fine-tuning by LoRA: a batch of runs, from rows of the run table to a tidy table."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from optrepro.config import FineTuningStudy, LanguageTask
from optrepro.experiments import tasks
from optrepro.experiments.context import Context
from optrepro.experiments.models import Separate
from optrepro.experiments.training import Training, train
from optrepro.problems import language
from optrepro.runtable import Batch


def run(study: FineTuningStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on validation data, then fine-tune with the tuned rate: the tidy results of the batch's runs.

    Metrics are those of `training.train`; accuracy of a language model is the share of tokens that it predicts.
    ``exact_match`` at the last step of test runs, where questions are asked: the share that is answered right.
    """
    dataset, build = tasks.of(study, context)
    asks = isinstance(study.task, LanguageTask) and study.task.exact_match > 0
    return train(study, batch, context, dataset, build, partial(Asked, context) if asks else Training)


class Asked(Training):
    """A fine-tuning of language models that answer test questions at the end."""

    def __init__(self, context: Context, *arguments: Any):
        super().__init__(*arguments)
        self.context = context

    def finish(self) -> None:
        """Answer the questions, in test runs only."""
        if self.runs[0].role == "tune":
            return
        study, models = self.study, self.models
        assert isinstance(study, FineTuningStudy)
        assert isinstance(study.task, LanguageTask)
        assert isinstance(models, Separate)
        assert self.context.dataset is not None
        asked = language.questions(self.context.dataset, study.task.exact_match)
        self.switch_mode("eval")
        for r, module in enumerate(models.copies):
            if self.alive[r]:
                share = language.exact_match(
                    module.eval(),
                    asked,
                    context=study.task.context,
                    tokenizer=tasks.tokenizer_of(study),
                    device=self.context.device,
                )
                self.record(r, "exact_match", share)
        self.switch_mode("train")
