"""The kind families: toy losses under the optimal operators of the static families."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import Count, Positive, Study, counted


class FamiliesStudy(Study):
    """Toy losses under the optimal operators of the static families."""

    runner: ClassVar[str] = "optrepro.experiments.probes.families"

    kind: Literal["families"] = "families"
    member_toys: Annotated[tuple[str, ...], Field(min_length=1, description="Losses for members of one family.")]
    family_toys: Annotated[tuple[str, ...], Field(min_length=1, description="Losses on which families are compared.")]
    powers: Annotated[tuple[Positive, ...], Field(min_length=1, description="Budgets of learning power, tuned over.")]
    decay: Annotated[float, Field(ge=0, lt=1, description="Of the running average of g g^T.")]
    members: Annotated[Count, Field(description="Random members of equal power.")]
    tuning_starts: Count
    starts: Count
    steps: Count
    points: Annotated[int, Field(ge=2, description="Points of the curves.")]

    def repetitions_in_words(self) -> str:
        """Starts and steps."""
        others = counted(self.tuning_starts, "other")
        return f"{counted(self.starts, 'start')}, and {others} to tune on; {self.steps} steps each."
