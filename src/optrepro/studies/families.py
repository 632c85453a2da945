"""The kind `families`: toy losses minimized with the optimal operators of the static families."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import KIND, Count, Positive, Study, counted


class FamiliesStudy(Study):
    """Toy losses minimized with the optimal operators of GAP's static families."""

    runner: ClassVar[str] = "optrepro.experiments.probes.families"

    kind: Annotated[Literal["families"], KIND] = "families"
    member_toys: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Losses for members of the Frobenius family: ids in `optrepro.problems.functions.toys`.",
        ),
    ]
    family_toys: Annotated[
        tuple[str, ...], Field(min_length=1, description="Losses on which the families are compared.")
    ]
    powers: Annotated[
        tuple[Positive, ...],
        Field(
            min_length=1,
            description="Budgets of learning power in units of the loss's curvature; each family is tuned over them.",
        ),
    ]
    decay: Annotated[float, Field(ge=0, lt=1, description="Weight of the past in the running average of g g^T.")]
    members: Annotated[Count, Field(description="Number of random members of equal power.")]
    tuning_starts: Annotated[Count, Field(description="Number of starts that the power is tuned on.")]
    starts: Annotated[Count, Field(description="Number of starts of the test runs.")]
    steps: Annotated[Count, Field(description="Number of steps of a run.")]
    points: Annotated[int, Field(ge=2, description="Number of steps at which the curves are recorded.")]

    def repetitions_in_words(self) -> str:
        """Numbers of starts and steps."""
        others = counted(self.tuning_starts, "other")
        return f"{counted(self.starts, 'start')}, and {others} to tune on; {self.steps} steps each."
