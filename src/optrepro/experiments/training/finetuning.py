"""Fine-tuning by LoRA, and questions that the fine-tuned language models answer."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch

from optrepro.experiments.base import data
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import tasks
from optrepro.experiments.training.classification import Training, train
from optrepro.experiments.training.replicas import Separate
from optrepro.problems.data import texts
from optrepro.problems.data.images import Dataset
from optrepro.problems.networks import gpt
from optrepro.studies.base import Batch, Reader, Scale, dataset_of
from optrepro.studies.data import LanguageTask
from optrepro.studies.finetuning import FineTuningStudy

TOGETHER = 64  # questions answered in one batch, between two opportunities to save


def run(study: FineTuningStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on validation data, then fine-tune with the tuned rate. Returns tidy results.

    The metrics are those of `classification.train`; the accuracy of a language model is the share of tokens that it
    predicts. Where the task asks questions, test runs also have ``exact_match``, the share of correct answers, at the
    last step.
    """
    dataset, build = tasks.of(study, context)
    asks = isinstance(study.task, LanguageTask) and study.task.exact_match > 0
    return train(study, batch, context, dataset, build, partial(Asked, context) if asks else Training)


def prepare(study: FineTuningStudy, batches: Sequence[Batch], scale: Scale) -> None:
    """Load the data, and the libraries that build transformers and adapters."""
    data.load(study.task, dataset_of(study.task, scale), scale.seed, "cpu", tasks.tokenizer_of(study))
    for library in ("peft", "transformers.models.gpt2.modeling_gpt2", "transformers.models.vit.modeling_vit"):
        importlib.import_module(library)


def load(study: FineTuningStudy, reader: Reader, name: str, seed: int, device: torch.device | str) -> Dataset:
    """Load the data of the study, tokenized for its backbone. Raises: see `data.load`."""
    return data.load(reader, name, seed, device, tasks.tokenizer_of(study))


class Asked(Training):
    """A fine-tuning of language models; test runs answer questions after the last step, `TOGETHER` per `advance`."""

    def __init__(self, context: Context, *arguments: Any):
        super().__init__(*arguments)
        assert isinstance(self.study, FineTuningStudy)
        assert isinstance(self.study.task, LanguageTask)
        assert context.dataset is not None
        count = self.study.task.exact_match
        self.questions = texts.questions(context.dataset, count) if self.runs[0].role == "test" else []
        self.tokenizer = tasks.tokenizer_of(self.study)
        self.device = context.device
        self.answered = 0
        self.right = [0] * len(self.runs)

    @property
    def finished(self) -> bool:
        """Whether every run has taken all steps or has diverged, and all questions are answered."""
        return super().finished and (self.answered >= len(self.questions) or not any(self.alive))

    def advance(self) -> None:
        """Take one training step, or answer the next questions if training is over."""
        if super().finished:
            self._answer()
        else:
            super().advance()

    def state(self) -> dict[str, Any]:
        """See `Training`."""
        return {**super().state(), "answered": self.answered, "right": self.right}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Training`."""
        super().load_state(state)
        self.answered, self.right = state["answered"], state["right"]

    def _answer(self) -> None:
        study, models = self.study, self.models
        assert isinstance(study, FineTuningStudy)
        assert isinstance(study.task, LanguageTask)
        assert isinstance(models, Separate)
        asked = self.questions[self.answered : self.answered + TOGETHER]
        self.answered += len(asked)
        self.switch_mode("eval")
        for r, module in enumerate(models.copies):
            if not self.alive[r]:
                continue
            assert isinstance(module, gpt.LanguageModel)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=study.precision == "bfloat16"):
                self.right[r] += gpt.exact_matches(
                    module.eval(), asked, context=study.task.context, tokenizer=self.tokenizer
                )
            if self.answered == len(self.questions):
                self.record(r, "exact_match", self.right[r] / self.answered)
        self.switch_mode("train")
