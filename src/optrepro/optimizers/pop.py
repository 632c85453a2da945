"""POP: gradient descent in which a meta-learned policy chooses the learning rate of each coordinate at each step."""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import ne
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, require
from optrepro.optimizers._closure import ClosureOptimizer
from optrepro.optimizers._coordinates import Coordinates, Memory
from optrepro.optimizers._learned import SPIKES, WEIGHTS, accepted, find, new_numbers
from optrepro.optimizers._pop_policy import Policy, Trajectory, load
from optrepro.optimizers._ranks import is_distributed, local

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["POP", "WEIGHTS"]

# A `Trajectory` keeps these float64 tensors from one evaluation to the next: COORDINATES hold a number for each
# coordinate and WHOLE a number for the whole problem. BOX is the lower corner and the edges of the box.
COORDINATES = (
    "u", "gradient", "best_u", "largest", "own", "own_lowest", "own_highest", "own_since", "action",
)  # fmt: skip
BOX = ("lower", "edge")
WHOLE = ("value", "best", "since", "lowest", "highest", "steepest")
ROWS = 4096  # number of coordinates in one call of the policy


class POP(ClosureOptimizer):
    r"""Prior-fitted optimization policy: it needs no learning rate, only the size of the search space.

    All elements of all parameters are the coordinates of one problem in a box: :math:`u = (x - l) / e` with lower
    corner :math:`l` and edges :math:`e`. From the values and gradients so far, the policy chooses a learning rate
    :math:`\alpha_i` for each coordinate, and the step is :math:`u_i \leftarrow u_i - \alpha_i\, g_i / |g_i|`. The
    choice does not change when the loss or the box is scaled or shifted.

    `step` needs a closure and calls it once. A step is skipped, and the state left unchanged, if the loss or a gradient
    is not finite. It is also skipped, once, if a gradient is 1e12 times larger than all before it. Elements with a
    gradient of 0, and parameters without a gradient, do not move. A change of the parameters between two steps counts
    as part of the last step. Adding a parameter group starts a new problem.

    Args:
        params: parameters, or parameter groups with their own `lr` and `bounds`.
        lr: without bounds, the edge of an imagined box around the start: about twice the distance that a parameter may
            have to travel. Steps are not projected into this box. With bounds, a factor on the steps; the policy was
            trained for 1. In both cases a schedule of `lr` changes the steps and not the box.
        bounds: lower and upper bound, numbers or tensors that can be expanded to each parameter; only numbers for
            sharded parameters. The parameters are projected into them before each evaluation and after each step.
        policy: the name of a shipped policy, a file that `optrepro.optimizers._pop_policy.save` wrote, or a `Policy`.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. The loss is averaged over them. The ranks must hold the same parameters,
            or shards made by `fully_shard` or `FullyShardedDataParallel`.

    Shape: parameters of any shape and real floating dtype, all on one device. The trajectory is computed in float64.
        The state of a parameter of shape (*s) is eleven float64 tensors (*s), and the policy's memory ``memory_0`` and
        so on, (*s, ...). The memory of a Transformer takes history x width x layers x 2 x 4 bytes per element: 8 KiB
        with the default sizes, so 0.8 GB for a network of 100,000 weights; see `bytes_needed`. `fully_shard` shards it
        like the parameter. Training with `FullyShardedDataParallel` works, but its ``optim_state_dict`` cannot save
        tensors with more dimensions than the parameter. With sharded parameters a policy that samples its actions
        draws other samples.
    Raises: ValueError for a setting that is not allowed, complex parameters, a missing closure, a loss that is not one
        number, or parameters that changed their size or differ between the ranks; MemoryError, before anything is
        allocated, if the state does not fit; FileNotFoundError for an unknown policy; RuntimeError for sparse
        gradients.
    Source: arXiv 2602.15473; the behaviour without bounds is chosen (fidelity: ``code.optimizers.pop``).
    """

    needs = "loss"  # what `step` needs beside the gradients

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        bounds: tuple[float | Tensor, float | Tensor] | None = None,
        policy: str | Path | Policy = "pop",
        *,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        self.policy = policy if isinstance(policy, Policy) else self.from_pretrained(policy)
        super().__init__(params, {"lr": lr, "bounds": bounds}, process_group)

    @staticmethod
    def from_pretrained(policy: str | Path = "pop") -> Policy:
        """Load the policy shipped under a name or stored in a file.

        Raises: FileNotFoundError for an unknown policy; ValueError if the file holds no policy.
        """
        return load(find(policy))[0]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with its own settings where given, and start a new problem.

        Raises: ValueError for a setting or parameters that are not allowed.
        """
        super().add_param_group(param_group)
        self.state.clear()

    def bytes_needed(self) -> int:
        """Upper bound in bytes on this rank's memory for state and intermediate tensors of a step.

        Parameters and gradients are not included. Nothing is allocated to compute it.
        """
        elements = sum(local(param).numel() for param in self._all_params())
        state = 8 * len((*COORDINATES, *BOX)) + sum(part.nbytes for part in self._policy_memory(1))
        passing = 24 * Trajectory.FEATURES + 8 * 64  # features in float64 and float32, and the trajectory's tensors
        most = 64 * self.policy.settings.width * min(elements, ROWS)  # inside the policy's layers
        return elements * (state + passing) + most

    # Settings and state.

    def _checked(self, group: Group) -> Group:
        require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        _require_box(group["bounds"])
        # `unit` is the rate at which the policy's steps are not rescaled. A rate of 0 cannot be the size of a box.
        unit = 1.0 if group["bounds"] is not None else float(group["lr"]) or 1.0
        return {**group, "unit": unit}

    def _check_params(self, group: Group) -> None:
        super()._check_params(group)
        for param in group["params"]:
            _require_fit(param, group["bounds"])

    def _table_shapes(self) -> dict[str, tuple[int, ...]]:
        remembered = {f"memory_{i}": tuple(part.shape[:-1]) for i, part in enumerate(self._policy_memory(2))}
        return {**dict.fromkeys((*COORDINATES, *BOX), ()), **remembered}

    def _number_names(self) -> tuple[str, ...]:
        return ("time", *WHOLE, *SPIKES)

    def _policy_memory(self, rows: int, device: torch.device | str = "meta") -> list[Tensor]:
        """The policy's empty memory for `rows` coordinates, with the coordinates in the last dimension, (..., rows)."""
        parts = self.policy.backbone.begin(rows, torch.empty(0, dtype=torch.float32, device=device))
        return [part.movedim(at, -1) for part, at in zip(parts, self._counting(), strict=True)]

    def _counting(self) -> list[int]:
        """The dimension of the coordinates in each tensor of the policy's memory."""
        like = torch.empty(0, dtype=torch.float32, device="meta")
        one, two = (self.policy.backbone.begin(rows, like) for rows in (1, 2))
        return [[*map(ne, a.shape, b.shape)].index(True) for a, b in zip(one, two, strict=True)]

    def _begin(self, coordinates: Coordinates) -> Memory:
        """Create the state before the first step, which places the box.

        Raises: MemoryError if the state does not fit.
        """
        needed, there_is = self.bytes_needed(), available_bytes(coordinates.device)
        if there_is is not None and needed > there_is:
            raise MemoryError(
                f"params have {coordinates.size:,} elements: POP needs {needed:,} bytes for a problem of that size, "
                f"and {there_is:,} are available on {coordinates.device}"
            )
        self.policy.to(coordinates.device)
        size, device = coordinates.size, coordinates.device
        tables = {name: torch.zeros(size, dtype=torch.float64, device=device) for name in (*COORDINATES, *BOX)}
        tables |= {f"memory_{i}": part for i, part in enumerate(self._policy_memory(size, device))}
        bounded = all(group["bounds"] is not None for group in self.param_groups)
        start = tables["u"][None]
        there = coordinates.exist()[None]
        self._trajectory = Trajectory(self.policy.settings, start, there, bounded=bounded, sums=coordinates.sums)
        return Memory(coordinates, tables, new_numbers(self._number_names()))

    # A step.

    def _prepare(self) -> None:
        self._project()

    def _take(self, loss: Any, closure: Callable[[], Any]) -> None:
        look = self._look(loss)
        if not look.is_finite:
            return
        memory = self._remembered()
        if not accepted(memory.numbers, look.largest):
            return
        coordinates, tables = memory.coordinates, memory.tables
        x, gradient = (part[None] for part in (coordinates.values(torch.float64), coordinates.gradient(torch.float64)))
        if not memory.numbers["time"]:
            self._place(coordinates, tables, x)
        lower, edge = (tables[name][None] for name in BOX)
        here = (x - lower) / edge
        trajectory = self._recalled(memory)
        # The step as the parameters took it: projection, rounding and schedules may have changed the policy's step.
        trajectory.u, trajectory.step = here, here - trajectory.u
        features = trajectory.observe(x.new_tensor([look.loss]), gradient * edge)
        action = self._decide(features[0], tables, trajectory.steps - 1)
        there = torch.lerp(here, trajectory.move(action[None]), self._factor(coordinates))
        trajectory.u = here
        self._note(trajectory, memory)
        moved = lower + edge * there
        self._write(coordinates, torch.where((there == here) | ~moved.isfinite(), x, moved)[0])
        self._project()

    def _place(self, coordinates: Coordinates, tables: dict[str, Tensor], x: Tensor) -> None:
        """Place the box at the bounds, or without bounds around `x`, (1, n)."""
        lower, edge = (coordinates.split(tables[name]) for name in BOX)
        start = coordinates.split(x[0])
        groups = [group for group in self.param_groups for _ in group["params"]]
        for i, group in enumerate(groups):
            if group["bounds"] is None:
                torch.sub(start[i], group["unit"] / 2, out=lower[i])
                edge[i].fill_(group["unit"])
            else:
                low, high = (torch.as_tensor(bound).to(edge[i]) for bound in group["bounds"])
                lower[i].copy_(low)
                edge[i].copy_(high - low)
        tables["u"].copy_(((x - tables["lower"]) / tables["edge"])[0])

    def _recalled(self, memory: Memory) -> Trajectory:
        """The trajectory with the tensors that the memory holds."""
        trajectory = self._trajectory
        trajectory.steps = int(memory.numbers["time"])
        for name in COORDINATES:
            setattr(trajectory, name, memory.tables[name][None])
        for name in WHOLE:
            setattr(trajectory, name, memory.numbers[name].to(trajectory.count.device).view(1, 1))
        trajectory.step = torch.zeros_like(trajectory.u)
        return trajectory

    def _note(self, trajectory: Trajectory, memory: Memory) -> None:
        memory.numbers["time"].fill_(trajectory.steps)
        for name in COORDINATES:
            memory.tables[name].copy_(getattr(trajectory, name)[0])
        for name in WHOLE:
            memory.numbers[name].copy_(getattr(trajectory, name)[0, 0])

    def _decide(self, features: Tensor, tables: dict[str, Tensor], time: int) -> Tensor:
        """The policy's actions (n, ...) for features (n, FEATURES); its memory in `tables` is updated in place."""
        names = [name for name in tables if name.startswith("memory_")]
        counting, actions = self._counting(), []
        for start in range(0, len(features), ROWS):
            some = slice(start, start + ROWS)
            kept = [tables[name][..., some].movedim(-1, at) for name, at in zip(names, counting, strict=True)]
            parts = list(kept)
            numbers = torch.arange(start, start + len(features[some]), device=features.device)
            actions.append(self.policy.act(features[some], parts, time, numbers))
            for old, new in zip(kept, parts, strict=True):
                if new is not old:
                    old.copy_(new)
        none = features.new_zeros(0) if self.policy.settings.outputs == 1 else features.new_zeros(0, 2)
        return torch.cat(actions) if actions else none

    def _factor(self, coordinates: Coordinates) -> float | Tensor:
        """The factor on the policy's steps: one number, or one for each coordinate, (1, n)."""
        factors = [float(group["lr"]) / group["unit"] for group in self.param_groups for _ in group["params"]]
        if len(set(factors)) < 2:
            return factors[0] if factors else 1.0
        sizes = torch.tensor(coordinates.vectors.sizes, device=coordinates.device)
        each = torch.tensor(factors, dtype=torch.float64, device=coordinates.device)
        return each.repeat_interleave(sizes)[None]

    def _write(self, coordinates: Coordinates, x: Tensor) -> None:
        """Copy `x`, (n,), into the parameters."""
        for param, part in zip(coordinates.params, coordinates.split(x), strict=True):
            local(param).copy_(part)

    def _project(self) -> None:
        for group in self.param_groups:
            if group["bounds"] is not None:
                for param in map(local, group["params"]):
                    lower, upper = (torch.as_tensor(bound).to(param) for bound in group["bounds"])
                    param.copy_(param.clamp(lower, upper))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "policy": self.policy}


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if it is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _require_box(bounds: Any) -> None:
    if bounds is None:
        return
    allowed = "None or a pair (lower, upper) of finite numbers or tensors, with lower below upper"
    require(isinstance(bounds, tuple | list) and len(bounds) == 2, "bounds", bounds, allowed)
    lower, upper = map(torch.as_tensor, bounds)
    holds = lower.isfinite().all() and upper.isfinite().all() and (lower < upper).all()
    require(bool(holds), "bounds", bounds, allowed)


def _require_fit(param: Tensor, bounds: Any) -> None:
    for bound in map(torch.as_tensor, bounds or ()):
        if bound.numel() > 1 and is_distributed(param):
            raise ValueError("bounds of a sharded parameter must be numbers, not tensors with several elements")
        try:
            bound.expand(param.shape)
        except RuntimeError:
            shapes = f"{tuple(bound.shape)} cannot be expanded to that of a parameter, {tuple(param.shape)}"
            raise ValueError(f"bounds: the shape {shapes}") from None
