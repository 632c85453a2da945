"""Settings of the methods that learn step rules; this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from optrepro.settings import Count, Model, Positive, Share

StateKind = Literal["phi", "compact"]

_Rate = Annotated[Positive, Field(description="Learning rate of Adam.")]
_LastRate = Annotated[Share, Field(description="Share of the learning rate that is left at the end.")]
_MaxNorm = Annotated[Positive, Field(description="Gradients are clipped to this norm.")]
_Coordinates = Annotated[
    Count, Field(description="Number of coordinates sampled from each group of parameters, in every rollout.")
]
_Epochs = Annotated[Count, Field(description="Passes over the recorded sequences.")]
_Sequences = Annotated[Count, Field(description="Number of recorded sequences, one a coordinate, in a minibatch.")]
_RandomScale = Annotated[
    float,
    Field(
        ge=0,
        description="Each coordinate of an objective is measured in a unit of its own, exp(u) with u uniform within "
        "this distance of 0 (arXiv 1703.03633, section 4.1).",
    ),
]


class ImitationSettings(Model):
    """Settings of imitation: the policy acts, and is regressed on the actions that AdaGrad would have taken."""

    iterations: Annotated[
        Count, Field(description="Number of rollouts; AdaGrad acts in the first one, and the policy in all others.")
    ]
    teacher_rate: Annotated[Positive, Field(description="Learning rate of AdaGrad.")]
    coordinates: _Coordinates = 128
    epochs: _Epochs = 4
    sequences: _Sequences = 512
    learning_rate: _Rate = 0.01
    max_grad_norm: _MaxNorm = 1.0


class MirrorSettings(Model):
    """Settings of mirror descent: the policy acts, and is regressed on a better guiding policy near it."""

    iterations: Annotated[Count, Field(description="Length of the training.")]
    truth: Annotated[
        Count, Field(description="Number of examples that a true gradient is taken on, the same through a rollout.")
    ] = 256
    coordinates: _Coordinates = 96
    curvature: Annotated[
        float,
        Field(
            ge=0,
            description="Share of the gradient's pooled slope that is taken for the curvature; along steps it is "
            "steeper than in most directions.",
        ),
    ] = 0.1
    noise: Annotated[
        Positive, Field(description="Standard deviation of the policy, relative to its root mean square action.")
    ] = 0.5
    kl: Annotated[
        Positive,
        Field(
            description="Limit on the divergence of the guiding policy from the policy, in nats for each coordinate "
            "and step."
        ),
    ] = 0.1
    random_scale: _RandomScale = 0.0
    measure: Annotated[
        Count, Field(description="Iterations between two measurements of the guiding policy's cost.")
    ] = 20
    epochs: _Epochs = 2
    sequences: _Sequences = 768
    learning_rate: _Rate = 0.01
    last_rate: _LastRate = 0.05
    max_grad_norm: _MaxNorm = 1.0


class GuidedSettings(Model):
    """Settings of Bregman ADMM: a guiding policy acts, and the recurrent policy is trained to agree with it."""

    iterations: Annotated[Count, Field(description="Length of the training.")]
    state: Annotated[
        StateKind,
        Field(description="State that the guiding policy acts on: `phi`, the paper's 77 features, or a `compact` one."),
    ] = "compact"
    sharing: Annotated[
        Literal["group", "coordinate"],
        Field(
            description="Whether each group of parameters (the paper's) or each coordinate (the ablation) has models, "
            "gains and duals of its own."
        ),
    ] = "group"
    teacher_rate: Annotated[
        Positive | None,
        Field(
            description="Learning rate of AdaGrad, which the guiding policy imitates at first; null: it imitates the "
            "recurrent policy."
        ),
    ] = None
    noise: Annotated[
        Positive,
        Field(description="Standard deviation of the guiding policy's actions, relative to their root mean square."),
    ] = 0.5
    coordinates: _Coordinates = 128
    strength: Annotated[Positive, Field(description="Weight of the models' prior, in samples.")] = 200.0
    floor: Annotated[Positive, Field(description="Smallest curvature, relative to its mean over the steps.")] = 0.1
    persistence: Annotated[Share, Field(description="Share of a displacement that is left after a step.")] = 0.95
    kl: Annotated[
        Positive,
        Field(description="Limit on the change of the guiding policy, in nats for each coordinate and step."),
    ] = 0.2
    backtracks: Annotated[
        int, Field(ge=0, description="How often the limit is quartered where a change does not pay.")
    ] = 3
    policy_weight: Annotated[
        Positive,
        Field(description="First weight of the divergence from the recurrent policy, relative to the multiplier."),
    ] = 0.1
    policy_kl: Annotated[
        Positive,
        Field(
            description="Divergence of the two policies that this weight is adapted to: it is doubled above twice the "
            "value, and halved below half of it."
        ),
    ] = 0.02
    dual_rate: Annotated[float, Field(ge=0, description="Step size of the dual variables.")] = 0.5
    epochs: _Epochs = 10
    sequences: _Sequences = 1024
    learning_rate: _Rate = 3e-3
    last_rate: _LastRate = 0.05
    max_grad_norm: _MaxNorm = 1.0


class UnrolledSettings(Model):
    """Settings of truncated back-propagation through unrolled training (arXiv 1606.04474)."""

    iterations: Annotated[
        Count,
        Field(description="Number of rollouts, each on new objectives; the decay of the learning rate is made for it."),
    ]
    unroll: Annotated[
        Count, Field(description="Steps between two updates, through which losses are propagated back.")
    ] = 20
    learning_rate: _Rate = 3e-3
    last_rate: _LastRate = 0.05
    max_grad_norm: _MaxNorm = 1.0
    first_horizon: Annotated[Count, Field(description="Steps of the first rollout, where rollouts grow.")] = 20
    curriculum: Annotated[
        Share,
        Field(
            description="Share of the iterations over which rollouts grow to the objective's `steps`, geometrically "
            "(after arXiv 2010.09089)."
        ),
    ] = 0.0
    logarithm: Annotated[
        bool,
        Field(
            description="Whether the loss is the logarithm of the objective, so that late steps count as much as "
            "early ones."
        ),
    ] = False
    random_scale: _RandomScale = 0.0
