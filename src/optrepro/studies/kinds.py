"""The kinds of studies by name; a kind outside this package is named by its import path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from optrepro.studies.base import Study
from optrepro.studies.concept import ConceptStudy
from optrepro.studies.diagnostics import DiagnosticsStudy
from optrepro.studies.families import FamiliesStudy
from optrepro.studies.finetuning import FineTuningStudy
from optrepro.studies.functions import FunctionsStudy
from optrepro.studies.greedy import GreedyStudy
from optrepro.studies.halving import HalvingStudy
from optrepro.studies.learner import LearnerStudy
from optrepro.studies.objectives import ObjectivesStudy
from optrepro.studies.overhead import OverheadStudy
from optrepro.studies.policy import PolicyStudy
from optrepro.studies.pretraining import PretrainingStudy
from optrepro.studies.prior import PriorStudy
from optrepro.studies.shift import ShiftStudy
from optrepro.studies.surfaces import SurfacesStudy
from optrepro.studies.training import TrainingStudy
from optrepro.studies.transfer import TransferStudy
from optrepro.studies.validation import ValidationStudy

KINDS: Mapping[str, type[Study]] = {
    kind.model_fields["kind"].default: kind
    for kind in (
        TrainingStudy,
        FunctionsStudy,
        SurfacesStudy,
        FamiliesStudy,
        ConceptStudy,
        PriorStudy,
        PolicyStudy,
        HalvingStudy,
        TransferStudy,
        LearnerStudy,
        ObjectivesStudy,
        ShiftStudy,
        PretrainingStudy,
        FineTuningStudy,
        DiagnosticsStudy,
        OverheadStudy,
        ValidationStudy,
        GreedyStudy,
    )
}


def kind(name: Any) -> type[Study]:
    """The kind called `name`: one of `KINDS`, or the subclass of `Study` at this import path.

    Raises: ValueError that says what is allowed.
    """
    if isinstance(name, str) and name in KINDS:
        return KINDS[name]
    module, _, attribute = str(name).rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except Exception:  # whatever the module raises while it is imported
        found = None
    if isinstance(found, type) and issubclass(found, Study):
        return found
    raise ValueError(
        f"It is one of {', '.join(KINDS)}, or the import path of a subclass of optrepro.studies.base.Study"
    )


def study(settings: Mapping[str, Any]) -> Study:
    """The study with these settings, which are those in its facts."""
    return kind(settings["kind"]).model_validate(settings)
