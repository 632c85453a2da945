"""Settings of the methods that learn step rules; this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from optrepro.settings import Count, Model, Positive, Share

StateKind = Literal["phi", "compact"]

_Rate = Annotated[Positive, Field(description="Learning rate of Adam.")]
_LastRate = Annotated[Share, Field(description="Learning rate at the end, relative to the one at the beginning.")]
_MaxNorm = Annotated[Positive, Field(description="Gradients are clipped to this norm.")]
_Coordinates = Annotated[
    Count, Field(description="Number of coordinates sampled from each group of parameters in every rollout.")
]
_Epochs = Annotated[Count, Field(description="Number of passes over the recorded sequences.")]
_Sequences = Annotated[Count, Field(description="Number of recorded sequences in a minibatch, one per coordinate.")]
_RandomScale = Annotated[
    float,
    Field(
        ge=0,
        description="Coordinates of an objective are measured in random units exp(u), with u uniform within this "
        "distance of 0 (arXiv 1703.03633, section 4.1).",
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

    iterations: Annotated[Count, Field(description="Number of iterations.")]
    truth: Annotated[
        Count, Field(description="Number of examples for true gradients, the same ones throughout a rollout.")
    ] = 256
    coordinates: _Coordinates = 96
    curvature: Annotated[
        float,
        Field(
            ge=0,
            description="Curvature, relative to the pooled slope of the gradient along steps, which is steeper than in "
            "most directions.",
        ),
    ] = 0.1
    noise: Annotated[
        Positive, Field(description="Standard deviation of the policy, relative to its root mean square action.")
    ] = 0.5
    kl: Annotated[
        Positive,
        Field(
            description="Limit on the KL divergence of the guiding policy from the policy, in nats per coordinate and "
            "step."
        ),
    ] = 0.1
    random_scale: _RandomScale = 0.0
    measure: Annotated[
        Count, Field(description="Number of iterations between two measurements of the guiding policy's cost.")
    ] = 20
    epochs: _Epochs = 2
    sequences: _Sequences = 768
    learning_rate: _Rate = 0.01
    last_rate: _LastRate = 0.05
    max_grad_norm: _MaxNorm = 1.0


class GuidedSettings(Model):
    """Settings of Bregman ADMM: a guiding policy acts, and the recurrent policy is trained to agree with it."""

    iterations: Annotated[Count, Field(description="Number of iterations.")]
    state: Annotated[
        StateKind,
        Field(description="State features of the guiding policy: `phi`, the paper's 77, or a `compact` set."),
    ] = "compact"
    sharing: Annotated[
        Literal["group", "coordinate"],
        Field(
            description="Whether each group of parameters (as in the paper) or each coordinate (the ablation) has its "
            "own models, gains and duals."
        ),
    ] = "group"
    teacher_rate: Annotated[
        Positive | None,
        Field(
            description="Learning rate of AdaGrad, which the guiding policy imitates initially; null: it imitates the "
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
    persistence: Annotated[Share, Field(description="Share of a displacement that remains after a step.")] = 0.95
    kl: Annotated[
        Positive,
        Field(description="Limit on the change of the guiding policy, in nats per coordinate and step."),
    ] = 0.2
    backtracks: Annotated[
        int, Field(ge=0, description="Largest number of times that the limit is quartered if a change does not help.")
    ] = 3
    policy_weight: Annotated[
        Positive,
        Field(description="Initial weight of the divergence from the recurrent policy, relative to the multiplier."),
    ] = 0.1
    policy_kl: Annotated[
        Positive,
        Field(
            description="Target of the divergence between the two policies, to which this weight is adapted: it is "
            "doubled above twice the target, and halved below half of it."
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
        Field(description="Number of rollouts, each on new objectives; the learning rate decays until the last one."),
    ]
    unroll: Annotated[
        Count, Field(description="Number of steps between two updates, through which losses are propagated back.")
    ] = 20
    learning_rate: _Rate = 3e-3
    last_rate: _LastRate = 0.05
    max_grad_norm: _MaxNorm = 1.0
    first_horizon: Annotated[Count, Field(description="Number of steps of the first rollout, if rollouts grow.")] = 20
    curriculum: Annotated[
        Share,
        Field(
            description="Share of the iterations in which rollouts grow geometrically to the objective's `steps` "
            "(after arXiv 2010.09089)."
        ),
    ] = 0.0
    logarithm: Annotated[
        bool,
        Field(
            description="Whether the loss is the logarithm of the objective, so that late steps count as much as early "
            "ones."
        ),
    ] = False
    random_scale: _RandomScale = 0.0
