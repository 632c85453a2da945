"""GAP: greedy alignment chooses the momentum at every step from the gradients seen so far (arXiv 2512.06370)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self, Unpack, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, require
from optrepro.optimizers._ranks import local, total
from optrepro.optimizers._switching import (
    PIECE,
    AdamSettings,
    Block,
    Loss,
    Probes,
    Record,
    Rule,
    SGDSettings,
    SwitchingAdam,
    SwitchingOptimizer,
    SwitchingSGD,
    kept,
    vector,
)
from optrepro.optimizers.continuous import ContinuousAdam, ContinuousAdamW, ContinuousSGD

SCORES = ("paper", "paper_literal", "debiased", "raw", "validation")


@dataclass(frozen=True)
class AlignmentRule(Rule):
    """Settings of the greedy choice; see `GapSGD`."""

    score: str = "paper"
    self_term: str = "previous"
    score_ema: float = 0.0
    hysteresis: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.score in SCORES, "score", self.score, f"one of {', '.join(SCORES)}")
        require(self.self_term in ("previous", "halves"), "self_term", self.self_term, '"previous" or "halves"')
        require(0 <= self.score_ema < 1, "score_ema", self.score_ema, "in [0, 1)")
        require(self.hysteresis >= 0, "hysteresis", self.hysteresis, "at least 0")


class Alignment(SwitchingOptimizer):
    """Scores of the candidates' steps: the drop in loss that their alignment with the gradient predicts."""

    _known_score_weights: Mapping[Any, tuple[Tensor, Tensor]] = MappingProxyType({})

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        unknown = torch.full((rows, self._candidate_count), math.nan, dtype=torch.float64, device=device)
        return super()._fresh_record(rows, device) | {"scores": unknown}

    def _align(self, block: Block, gradient: Tensor) -> None:
        """Measure R_0, (), and the alignment of the gradient with the buffers before their update, (candidates,)."""
        if self._candidate_count == 1:
            return
        probe = self._preconditioned(block, self._direction(block, gradient))
        buffers = block.state[self.buffers]
        one, other = self._self_partner(block, gradient, probe)
        positions, members = block.bundle.positions, block.last - block.first
        if self.rule.select == "global" or members == 1:
            row = 0 if self.rule.select == "global" else positions[block.first]
            block.found.append((row, self._self_term(block, one, other), inner_products(buffers, probe)))
            return
        sizes = block.bundle.vectors.sizes[block.first : block.last]
        parts = [vector.split_with_sizes(sizes) for vector in (one, other, probe)]
        rows = block.bundle.parts[self.buffers][block.first : block.last]
        for position, own, its, part, row in zip(positions[block.first : block.last], *parts, rows, strict=True):
            block.found.append((position, self._self_term(block, own, its), inner_products(row, part)))

    def _preconditioned(self, block: Block, gradient: Tensor) -> Tensor:
        """The gradient (n,) times Adam's preconditioner P; the gradient itself for SGD."""
        if block.scale is None:
            return gradient
        if torch.compiler.is_compiling() or len(gradient) > 2 * PIECE * torch.get_num_threads():
            return gradient * block.scale
        return torch.mul(gradient, block.scale, out=self._scratch("probe", gradient))

    def _self_term(self, block: Block, one: Tensor, other: Tensor) -> Tensor:
        """R_0, (); 0 if no choice depends on it."""
        return dot(one, other) if self._needs_self_term(block.group) else kept(zero)(one.device)

    def _needs_self_term(self, group: Group) -> bool:
        return True

    def _direction(self, block: Block, gradient: Tensor) -> Tensor:
        """The gradient whose alignment with the buffers is measured, (n,)."""
        return gradient

    def _self_partner(self, block: Block, gradient: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
        """Two vectors (n,) whose inner product is R_0, the alignment of the gradient with itself."""
        return probe, gradient

    def _scores(self, blocks: list[Block], rows: list[int], device: torch.device) -> Tensor:
        """J_j = c_j (new_j R_0 + old_j <g, h_j>), summed over blocks and ranks for each row, (rows, candidates)."""
        if not self._must_agree:
            return self._sums(blocks, rows, device)
        everyone = list(range(len(self._spread))) if self.rule.select == "per_parameter" else rows
        scores = torch.zeros(len(everyone), self._candidate_count, dtype=torch.float64, device=device)
        for spread_over in dict.fromkeys(self._spread):
            mine = [block for block in blocks if block.bundle.holders == spread_over]
            scores += total(self._sums(mine, everyone, device), spread_over)
        return scores if everyone == rows else scores[rows]

    def _sums(self, blocks: list[Block], rows: list[int], device: torch.device) -> Tensor:
        """The scores summed over this rank's blocks only, (rows, candidates)."""
        owners = [block for block in blocks for _ in block.found]
        found = [measured for block in blocks for measured in block.found]
        if not found:
            return torch.zeros(len(rows), self._candidate_count, dtype=torch.float64, device=device)
        have_equal_weights = have_one_kind(blocks, self._corrects_bias)
        self_terms, alignments = collected(found, device)
        if have_equal_weights and len(rows) == 1 < len(found):  # Sum first, so that the weights apply only once.
            self_terms, alignments = self_terms.sum(0, keepdim=True), alignments.sum(0, keepdim=True)
        new, old = self._score_weights(blocks[:1] if have_equal_weights else owners, device)
        scores = torch.addcmul(self_terms * new, alignments, old)
        return summed_by_row(scores, [row for row, _, _ in found], rows)

    def _score_weights(self, blocks: list[Block], device: torch.device) -> tuple[Tensor, Tensor]:
        """The weights of R_0 and of the alignment in each candidate's score, (blocks or 1, candidates) each."""
        if self._corrects_bias:
            corrections = [self._bias_corrections(block) for block in blocks]
            new, old = self._score_weights_of(blocks[0].group, device)
            if any(block.group is not blocks[0].group for block in blocks):
                new, old = self._stacked(blocks, device)
            corrected = torch.stack([vector(each, device) for each in corrections])
            return new / corrected, old / corrected
        return self._score_weights_of(blocks[0].group, device) if len(blocks) == 1 else self._stacked(blocks, device)

    def _stacked(self, blocks: list[Block], device: torch.device) -> tuple[Tensor, Tensor]:
        sides = [self._score_weights_of(block.group, device) for block in blocks]
        return torch.cat([new for new, _ in sides]), torch.cat([old for _, old in sides])

    def _score_weights_of(self, group: Group, device: torch.device) -> tuple[Tensor, Tensor]:
        """The same weights for one group, without bias correction, (1, candidates); cached, as they rarely change."""
        listed = self._listed(group), group.get("nesterov"), group.get("dampening"), group["lr_modulation"], device
        if torch.compiler.is_compiling() or listed not in self._known_score_weights:
            candidates, factors = self._candidates(group), self._factors(group)
            new = [factor * candidate.new for factor, candidate in zip(factors, candidates, strict=True)]
            old = [factor * candidate.old for factor, candidate in zip(factors, candidates, strict=True)]
            weights = vector(new, device)[None], vector(old, device)[None]
            if torch.compiler.is_compiling():
                return weights
            self._known_score_weights = {**self._known_score_weights, listed: weights}
        return self._known_score_weights[listed]

    def _factors(self, group: Group) -> list[Any]:
        """The score weights c_j of the candidates without bias correction; 1 unless `lr_modulation` is on."""
        return self._modulations(group) if group["lr_modulation"] else [1.0] * self._candidate_count

    @property
    def _corrects_bias(self) -> bool:
        return self.depends_on_age


class GreedyAlignment(Alignment):
    """Rule that takes the candidate whose update is best aligned with the gradient, per unit of filter norm."""

    rule: AlignmentRule
    continuous_form: ClassVar[type]

    def __new__(cls, *arguments: Any, candidates: str | None = None, **settings: Any) -> Self:
        """With ``candidates="continuous"``, return an optimizer with an interval of momenta in place of candidates.

        That optimizer is an object of `continuous_form`, which is not a subclass of this class.
        """
        if candidates is None:
            return super().__new__(cls)
        require(candidates == "continuous", "candidates", candidates, 'None or "continuous"')
        if "continuous_form" not in cls.__dict__:
            raise ValueError(
                f'candidates = "continuous" is not allowed for the subclass {cls.__name__}: derive from '
                f"{cls.continuous_form.__name__} instead, the continuous form of its base class"
            )
        return cast(Self, cls.continuous_form(*arguments, **settings))

    @property
    def needs(self) -> str | None:
        """The argument that `step` requires: None, "half_grads" or "validation_grads"."""
        if self._candidate_count == 1:
            return None
        if self.rule.score == "validation":
            return "validation_grads"
        return "half_grads" if self.rule.score == "debiased" and self.rule.self_term == "halves" else None

    @overload
    def step(
        self, closure: None = None, *, half_grads: Probes | None = None, validation_grads: Probes | None = None
    ) -> None: ...

    @overload
    def step(
        self,
        closure: Callable[[], Loss],
        *,
        half_grads: Probes | None = None,
        validation_grads: Probes | None = None,
    ) -> Loss: ...

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        half_grads: Probes | None = None,
        validation_grads: Probes | None = None,
    ) -> Any:
        """Take one step.

        Args:
            closure: computes the gradients again and returns the loss.
            half_grads: gradients on one half of the batch, in the order of the parameters and unscaled under AMP. The
                parameters' gradients must be the mean of both halves' gradients. If a half has a share x of the batch,
                for instance by its number of tokens, its gradient is 2x times the gradient of its mean loss.
            validation_grads: gradients on data independent of the batch, in the order of the parameters.

        Returns: the closure's loss, or None without a closure.
        Raises: ValueError if the argument named by `needs` is missing or ill-formed, or if another one is given;
            RuntimeError for sparse gradients. The parameters are then unchanged.
        """
        given = {"half_grads": half_grads, "validation_grads": validation_grads}
        if self.needs and given[self.needs] is None and self._has_no_gradient():
            # Distributed checkpoints call `step` with zero gradients to create the state.
            given[self.needs] = [param.grad for param in self._all_params()]
        for name, grads in given.items():
            if (grads is not None) != (name == self.needs):
                state = "is missing" if grads is None else "is superfluous"
                raise ValueError(f"{name} {state}: score={self.rule.score!r} needs {self.needs or 'no such argument'}")
        probes = given[self.needs] if self.needs else None
        if probes is not None:
            self._check_probes(probes)
        return self._step(closure, probes)

    def _has_no_gradient(self) -> bool:
        return not any(param.grad is not None and bool(param.grad.any()) for param in self._all_params())

    def _check_probes(self, probes: Probes) -> None:
        params = self._all_params()
        require(
            len(probes) == len(params), f"len({self.needs})", len(probes), f"the number of parameters, {len(params)}"
        )
        for i, (param, probe) in enumerate(zip(params, probes, strict=True)):
            if param.grad is not None:
                shape = None if probe is None else tuple(probe.shape)
                require(shape == tuple(param.shape), f"shape of {self.needs}[{i}]", shape, f"{tuple(param.shape)}")

    def _probe(self, group: Group, params: list[Tensor], positions: list[int], probes: Probes) -> list[Tensor]:
        given = [local(cast(Tensor, probes[i])) for i in positions]
        if group["maximize"]:
            given = [-probe for probe in given]
        # Coupled weight decay is part of the loss on half a batch, but not of the validation loss.
        if self.needs == "half_grads" and self.couples_weight_decay and group["weight_decay"] != 0:
            return [g.add(local(p), alpha=group["weight_decay"]) for g, p in zip(given, params, strict=True)]
        return given

    @property
    def _keeps_gradient(self) -> bool:
        return self.rule.score == "debiased" and self.rule.self_term == "previous" and self._candidate_count > 1

    def _state_rows(self, group: Group) -> dict[str, int]:
        return super()._state_rows(group) | ({"previous_grad": 1} if self._keeps_gradient else {})

    def _direction(self, block: Block, gradient: Tensor) -> Tensor:
        return cast(Tensor, block.probe) if self.rule.score == "validation" else gradient

    def _self_partner(self, block: Block, gradient: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
        if self._keeps_gradient:
            return probe, block.state["previous_grad"][0]
        if self.needs == "half_grads":
            half = cast(Tensor, block.probe)
            return half if block.scale is None else half * block.scale, 2 * gradient - half
        return super()._self_partner(block, gradient, probe)

    def _align(self, block: Block, gradient: Tensor) -> None:
        super()._align(block, gradient)
        if self._keeps_gradient:
            block.state["previous_grad"][0].copy_(gradient)

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        scores, ema = self._scores(blocks, rows, past["last"].device), self.rule.score_ema
        smooth = scores
        if ema > 0:
            smooth = torch.where(past["scores"].isfinite(), ema * past["scores"] + (1 - ema) * scores, scores)
        choice = eligible(smooth).argmax(-1)
        if self.rule.hysteresis > 0:
            choice = self._with_hysteresis(choice, eligible(scores), past["last"])
        return {"last": choice, "scores": smooth}

    def _factors(self, group: Group) -> list[Any]:
        if self.rule.score == "raw":
            return super()._factors(group)
        candidates = self._candidates(group)
        if self.rule.score == "paper_literal":
            return [math.sqrt(1 - candidate.old**2) for candidate in candidates]
        return [1 / candidate.norm for candidate in candidates]

    @property
    def _corrects_bias(self) -> bool:
        return self.depends_on_age and self.rule.score in ("raw", "paper_literal")

    def _with_hysteresis(self, choice: Tensor, scores: Tensor, last: Tensor) -> Tensor:
        """Keep the last choice unless the unsmoothed score of the new one exceeds its score by the relative margin."""
        current = scores.gather(-1, last.clamp(min=0)[:, None])[:, 0]
        gain = scores.gather(-1, choice[:, None])[:, 0] - current
        keep = (last >= 0) & current.isfinite() & (gain <= self.rule.hysteresis * current.abs())
        return torch.where(keep, last, choice)


class GapSGD(GreedyAlignment, SwitchingSGD):
    r"""SGD whose momentum is chosen at every step by greedy alignment.

    Every candidate :math:`m` keeps its buffer :math:`b_m \leftarrow m\,b_m + g`. The step is taken with the
    candidate of the largest score :math:`J(m) = \langle g, b_m\rangle \sqrt{1 - m^2}`: the drop in loss, per unit
    of filter norm, that the gradients seen so far predict.

    The score has two parts, the gradient's alignment with itself and with the past:
    :math:`J(m) = c_m (R_0 + m \langle g, b_m^{\text{before}}\rangle)`. Mini-batch noise inflates
    :math:`R_0 = \lVert g\rVert^2`, which favours small momenta. The settings of `score` differ in :math:`c_m` and
    :math:`R_0`. A candidate whose score is not finite is not taken; if no score is finite, the first candidate is.

    Args:
        params: parameters, or parameter groups with their own settings. The groups may differ in their candidates, but
            not in the number of candidates.
        lr: learning rate.
        momentum: candidates in [0, 1). A single number gives `torch.optim.SGD` bit for bit on the CPU.
        select: ``"global"`` (one choice for all parameters, from the sum of their scores) or ``"per_parameter"``.
        score: ``"paper"`` is the score above, where :math:`c_m` is the inverse of the filter's norm, also with Nesterov
            and dampening. ``"debiased"`` has an :math:`R_0` free of mini-batch noise; see `self_term`. ``"raw"`` has
            :math:`c_m = 1`, the gain of the step that is applied, and so leaves the paper's family of filters of unit
            norm; with lr_modulation, which gives all steps the same power, it equals the paper's score again.
            ``"validation"`` is the paper's score with the gradient on other data,
            :math:`\langle g_{val}, b_m\rangle`, which `step` takes as ``validation_grads``. These gradients affect the
            choice, but never enter the update.
        self_term: the :math:`R_0` of ``"debiased"``. ``"previous"`` is :math:`\langle g_n, g_{n-1}\rangle`, for which
            the last gradient is stored. ``"halves"`` is :math:`\langle g_a, g_b\rangle` for the two halves of the
            batch; `step` takes the gradient of one half as ``half_grads``.
        score_ema: decay of the exponential average of the scores, in [0, 1); 0 does not smooth.
        hysteresis: relative margin, at least 0. The last choice is kept unless another candidate's unsmoothed score
            exceeds its score :math:`J` by more than hysteresis times :math:`|J|`. 0 follows the largest score.
        candidates: ``"continuous"`` returns a `continuous.ContinuousSGD` with that class's settings and defaults.
        seed: a setting of that class; this class draws no random numbers.
        **settings: dampening, weight_decay (coupled: it enters the gradient that is scored and applied), nesterov,
            lr_modulation, maximize, foreach and process_group; see `SwitchingSGD`.

    Shape: parameters of any shape and floating dtype; the state is one buffer per candidate, shaped like the parameter.
        Scores are summed in float32 at least. No step waits for the device.
    Raises: ValueError for a setting outside its range or complex parameters; RuntimeError for sparse gradients.
    Source: arXiv 2512.06370 and its repository's README. ``"debiased"``, ``"raw"``, `lr_modulation` and the form of
        `hysteresis` are chosen.
    """

    continuous_form = ContinuousSGD

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        select: str = "global",
        *,
        score: str = "paper",
        self_term: str = "previous",
        score_ema: float = 0.0,
        hysteresis: float = 0.0,
        candidates: str | None = None,
        seed: int = 0,
        **settings: Unpack[SGDSettings],
    ) -> None:
        require(score != "paper_literal", "score", score, 'another score: "paper_literal" is defined for Adam only')
        rule = AlignmentRule(select, score, self_term, score_ema, hysteresis)
        super().__init__(params, lr, momentum, rule, **settings)


class GapAdam(GreedyAlignment, SwitchingAdam):
    r"""Adam whose beta1 is chosen at every step by greedy alignment.

    Every candidate :math:`\beta` keeps its first moment :math:`m_\beta`. All candidates share the second moment and
    the preconditioner :math:`P = 1/(\sqrt{\hat v} + \epsilon)`. The step is taken with the candidate of the largest
    score :math:`J(\beta) = \langle g, P m_\beta\rangle \sqrt{(1 + \beta)/(1 - \beta)}`. The root is the inverse norm of
    the moving average, without its bias correction.

    Args:
        params, lr, select, self_term, score_ema, hysteresis, candidates, seed: as in `GapSGD`.
        betas: candidates, pairs (beta1, beta2) with a common beta2. A single pair gives `torch.optim.Adam` bit for
            bit on the CPU.
        score: ``"paper"`` is the score above. ``"paper_literal"`` is
            :math:`\langle g, P \hat m_\beta\rangle \sqrt{1 - \beta^2}` with bias correction, as the README writes it.
            Its root belongs to the sum :math:`\sum_k \beta^k g_{n-k}` and not to the average, so the smallest beta1
            nearly always wins. The README also divides by the root of the mean of P, which is left out because it is
            the same for all candidates. ``"debiased"``, ``"raw"`` (the gain of the bias-corrected average) and
            ``"validation"`` are those of `GapSGD`, with P in every inner product.
        **settings: eps, weight_decay (coupled), lr_modulation, maximize, foreach and process_group; see
            `SwitchingAdam`.

    Shape: as `GapSGD`; the state is one first moment per candidate and one second moment.
    Raises: as `GapSGD`, and ValueError for candidates that differ in beta2.
    Source: as `GapSGD`; the factor in ``"paper"`` is derived from the norm of the moving average.
    """

    continuous_form = ContinuousAdam

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] | Sequence[tuple[float, float]] = ((0.5, 0.999), (0.9, 0.999), (0.99, 0.999)),
        select: str = "global",
        *,
        score: str = "paper",
        self_term: str = "previous",
        score_ema: float = 0.0,
        hysteresis: float = 0.0,
        candidates: str | None = None,
        seed: int = 0,
        **settings: Unpack[AdamSettings],
    ) -> None:
        rule = AlignmentRule(select, score, self_term, score_ema, hysteresis)
        super().__init__(params, lr, betas, rule, **settings)


class GapAdamW(GapAdam):
    """`GapAdam` with decoupled weight decay, 0.01 by default; a single pair gives `torch.optim.AdamW`."""

    continuous_form = ContinuousAdamW
    couples_weight_decay = False
    default_weight_decay = 0.01


def have_one_kind(blocks: list[Block], by_age: bool) -> bool:
    """Whether all blocks share group and, if `by_age`, step count; False under torch.compile, which hides the count."""
    first = blocks[0]
    if torch.compiler.is_compiling() and by_age:
        return False
    return all(block.group is first.group and (not by_age or block.age == first.age) for block in blocks)


def collected(found: list[tuple[int, Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The self terms (k, 1) and alignments (k, candidates) of k measurements, see `Block.found`, in float64.

    A single measurement, () and (candidates,), keeps its dtype: the weights promote it without a further call.
    """
    if len(found) == 1:
        _, self_term, alignment = found[0]
        return self_term.to(device), alignment.to(device)
    self_terms = together([self_term for _, self_term, _ in found], device)
    return self_terms[:, None], together([alignment for _, _, alignment in found], device)


def together(values: list[Tensor], device: torch.device) -> Tensor:
    """Stack k tensors of the same shape on the device, in float64."""
    return torch.stack([value.to(device, non_blocking=True) for value in values]).double()


def summed_by_row(scores: Tensor, of_rows: list[int], rows: list[int]) -> Tensor:
    """Add up the scores (k, candidates) of the rows `of_rows`, (rows, candidates); rows without a score get 0."""
    if len(scores) == len(rows) == 1 or of_rows == rows:
        return scores
    if len(rows) == 1:
        return scores.sum(0, keepdim=True)
    position = {row: i for i, row in enumerate(rows)}
    where = vector([position[row] for row in of_rows], scores.device, torch.int64)
    return scores.new_zeros((len(rows), scores.shape[1])).index_add_(0, where, scores)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of two vectors (n,), in float32 at least."""
    return torch.dot(wide(x), wide(y))


def inner_products(rows: Tensor, x: Tensor) -> Tensor:
    """Inner products of each row of (rows, n) with a vector (n,), in float32 at least."""
    if rows.device.type == "cpu":
        return torch.mv(wide(rows), wide(x))
    # A matrix-vector product with a few long rows leaves most of an accelerator idle.
    return torch.stack([dot(row, x) for row in rows])


def zero(device: torch.device) -> Tensor:
    """Zero as a float32 tensor ()."""
    return torch.zeros((), dtype=torch.float32, device=device)


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return x.float() if x.dtype.itemsize < 4 else x


def eligible(scores: Tensor) -> Tensor:
    """Replace scores that are not finite by minus infinity, so that these candidates come last."""
    return scores.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
