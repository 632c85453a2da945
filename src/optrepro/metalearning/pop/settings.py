"""Settings of POP's training; this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from optrepro.settings import LATER, Count, Model, Positive, Share, ascending

Horizon = Annotated[int, Field(ge=2)]


class PPOSettings(Model):
    """Settings of proximal policy optimization (arXiv 1707.06347).

    The reward of an evaluation is its progress in `-improvement r - log_regret log10 r`, where r is the regret
    relative to the start's, at least `floor`.
    """

    functions: Annotated[
        dict[Count, Count],
        Field(
            min_length=1,
            description="Number of new functions in an iteration, by dimension, at least one per minibatch. Validation "
            "uses the same dimensions, and the mean of their scores decides.",
        ),
    ]
    iterations: Annotated[
        Count, Field(description="Number of iterations; the decay of the learning rate ends with the last one.")
    ]
    epochs: Annotated[Count, Field(description="Number of passes over the functions of an iteration.")]
    minibatches: Annotated[Count, Field(description="Number of gradient steps in each pass.")]
    learning_rate: Annotated[Positive, Field(description="Learning rate of Adam.")]
    max_grad_norm: Annotated[Positive, Field(description="Gradients are clipped to this norm.")]
    discount: Annotated[float, Field(gt=0, le=1, description="Discount factor of the rewards.")]
    gae_lambda: Annotated[Share, Field(description="Parameter lambda of the generalized advantage estimate.")]
    clip_ratio: Annotated[Positive, Field(description="How far an iteration may move a probability ratio from 1.")]
    kl_limit: Annotated[
        Positive,
        Field(description="KL divergence from the policy that acted, above which no further epoch follows."),
    ]
    entropy: Annotated[float, Field(ge=0, description="Weight of the entropy bonus.")]
    value_loss: Annotated[Positive, Field(description="Weight of the critic's loss.")]
    improvement: Annotated[float, Field(ge=0, description="Weight of the normalized improvement in the reward.")]
    log_regret: Annotated[float, Field(ge=0, description="Reward for each power of ten by which the regret falls.")]
    floor: Annotated[
        float,
        Field(gt=0, lt=1, description="Regret, relative to the start's, below which progress is not rewarded."),
    ]
    terminal: Annotated[bool, Field(description="Whether the whole reward comes with the last evaluation.")] = False
    precision: Annotated[Literal["float32", "bfloat16"], Field(description="Precision of the updates on a GPU.")] = (
        "float32"
    )
    horizons: Annotated[
        tuple[Horizon, Horizon] | None,
        AfterValidator(ascending),
        Field(
            description="Smallest and largest number of evaluations in a run. Each iteration draws one, log-uniformly, "
            "as an input of the policy, and uses fewer functions for longer runs, so that all iterations have about "
            "equally many evaluations; null: all runs have the network's `horizon`."
        ),
        LATER,
    ] = None
    kl_target: Annotated[
        Positive | None,
        Field(
            description="Target of the KL divergence, to which the learning rate is adapted: it falls after an "
            "iteration above twice the target, and recovers after one below half of it; null: it is not adapted."
        ),
        LATER,
    ] = None
    entropy_target: Annotated[
        tuple[float, float] | None,
        Field(
            description="Target of the entropy of an action, in nats, at the beginning and at the end of the training, "
            "linear between them. The weight of the bonus starts at `entropy` and is adapted to the target, so that "
            "the noise does not vanish too early; null: the weight is fixed."
        ),
        LATER,
    ] = None
    averaging: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay of the exponential average of the weights, per iteration. Averaged and current weights "
            "are both validated, and the better ones kept; 0: there is no average.",
        ),
        LATER,
    ] = 0

    @model_validator(mode="after")
    def _minibatches_are_filled(self) -> Self:
        for dim, count in self.functions.items():
            if count < self.minibatches:
                raise ValueError(
                    f"functions[{dim}] = {count} is not allowed; it must be at least minibatches = {self.minibatches}"
                )
        return self
