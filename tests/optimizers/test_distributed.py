"""A user trains on several processes: replicas, shards, or an optimizer in parts; every rank takes the same step."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.optimizers import ranks
from tests.optimizers.ranks import WORLD, everywhere, on_two_ranks
from tests.optimizers.registry import MAKES, Make, named
from tests.optimizers.task import EXACT, Task, take

pytestmark = pytest.mark.system

STEPS = 40  # that a choice is made in; where none is made, a few do
FEW = 12
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
GLOBAL = ("gap-sgd-raw", "gap-sgd-debiased", "gap-adamw", "aligned-adam")
MOVING = ("continuous-sgd-quick", "continuous-adamw")
EACH = ("gap-sgd-each", "gap-adamw-each", "aligned-sgd", "random-adamw")
PLAIN = ("random-sgd", "mean-sgd", "mean-adamw", "cautious-adamw")
LEARNED = ("pop", "pop-shipped", "psd", "psd-shipped", "psd-relative", "l2l")
LINES = ("conjugate-gradient", "conjugate-gradient-search", "polyak")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the ranks have raised in the checks that are asked for, "" for nothing."""
    keys = [item.name for item in request.session.items if item.path == request.path and item.name in ranks.CHECKS]
    folder = tmp_path_factory.mktemp("ranks")
    return ranks.run(__name__, keys, folder)


# What the ranks do.


def task() -> Task:
    """Its parts cannot be shared out evenly, and a rank may have none of the last bias."""
    return Task(hidden=5)


def local_closure(task: Task, net: nn.Module, optimizer: Any, step: int) -> Callable[[], Tensor]:
    """The mean loss over this rank's half of the batch, and the gradients of it."""
    rank = dist.get_rank()

    def closure() -> Tensor:
        optimizer.zero_grad()
        x, target = (part[rank::WORLD] for part in task.data(step))
        loss = (net(x) - target).square().mean()
        loss.backward()
        return loss

    return closure


def train(make: Make, task: Task, net: nn.Module, optimizer: Any, steps: int = STEPS, start: int = 0) -> None:
    for n in range(start, start + steps):
        take(make, optimizer, local_closure(task, net, optimizer, n))


def alone(make: Make, steps: int = STEPS) -> tuple[Task, Any]:
    """What one process does on the whole batches."""
    whole = task()
    optimizer = make(whole.params, **({"process_group": None} if make.looks_at_ranks else {}))
    whole.train(make, optimizer, steps)
    return whole, optimizer


def assert_same_way(params: Sequence[Tensor], optimizer: Any, make: Make, steps: int = STEPS) -> None:
    """All ranks are where one process is, by the same choices."""
    expected, single = alone(make, steps)
    torch.testing.assert_close([param.detach() for param in params], expected.params, **CLOSE)
    if make.selects:
        chosen = {name: value.tolist() for name, value in optimizer.selection.items()}
        assert everywhere(chosen) == [chosen] * WORLD
        torch.testing.assert_close(optimizer.selection, single.selection, **(CLOSE if make.rounding["rtol"] else EXACT))


def replicas(make: Make, **settings: Any) -> tuple[Task, nn.Module, Any]:
    parts = task()
    net = DistributedDataParallel(parts.net)
    return parts, net, make(net.parameters(), **settings)


def shards(make: Make, mesh: Any = None) -> tuple[Task, nn.Module, Any]:
    parts = task()
    mesh = mesh or init_device_mesh("cpu", (WORLD,))
    for layer in (parts.net[0], parts.net[2], parts.net):
        fully_shard(layer, mesh=mesh)
    return parts, parts.net, make(parts.net.parameters())


def flat_shards(make: Make, use_orig_params: bool) -> tuple[Task, FullyShardedDataParallel, Any]:
    parts = task()
    net = FullyShardedDataParallel(parts.net, use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    return parts, net, make(net.parameters())


def parts_of_an_optimizer(make: Make) -> tuple[Task, nn.Module, Any]:
    replica = task()
    net = DistributedDataParallel(replica.net)

    def kind(params: Any, **settings: Any) -> Any:
        return make(params, **settings)

    return replica, net, ZeroRedundancyOptimizer(net.parameters(), kind, lr=make.lr)


def whole(net: nn.Module) -> list[Tensor]:
    """The parameters that all ranks have together."""
    return [param.full_tensor() if isinstance(param, DTensor) else param for param in net.parameters()]


def summoned(net: FullyShardedDataParallel) -> list[Tensor]:
    with FullyShardedDataParallel.summon_full_params(net):
        return [param.detach().clone() for param in net.module.parameters()]


# Replicas.


@on_two_ranks(*GLOBAL, *MOVING, *EACH, *PLAIN, *LEARNED, *LINES)
def test_replicas_step_as_one_process_on_the_joined_batch(make: Make) -> None:
    steps = STEPS if make.selects and make.looks_at_ranks else FEW
    parts, net, optimizer = replicas(make)
    train(make, parts, net, optimizer, steps)
    assert_same_way(list(net.parameters()), optimizer, make, steps)


@on_two_ranks("gap-sgd-raw", "pop", "psd-shipped", "polyak", "conjugate-gradient-search")
def test_a_process_group_may_be_named(make: Make) -> None:
    runs = []
    for group in ("world", dist.group.WORLD):
        parts, net, optimizer = replicas(make, process_group=group)
        train(make, parts, net, optimizer, 5)
        runs.append(list(net.parameters()))
    torch.testing.assert_close(*runs, **EXACT)


@on_two_ranks("gap-sgd-raw", "continuous-adamw", "aligned-sgd", *LEARNED, *LINES)
def test_a_process_by_itself_asks_no_other(make: Make) -> None:
    """Else the one that takes a step would wait for the one that does not."""
    if dist.get_rank() == 0:
        parts, _ = alone(make, 3)
        assert all(param.isfinite().all() for param in parts.params)
    dist.barrier()


@on_two_ranks("pop", "psd-shipped", "l2l", "conjugate-gradient", "polyak")
def test_where_one_ranks_loss_is_no_number_all_skip_the_step(make: Make) -> None:
    parts, net, optimizer = replicas(make)
    train(make, parts, net, optimizer, 2)
    before = [param.detach().clone() for param in parts.params]

    def closure() -> float:
        loss = local_closure(parts, net, optimizer, 2)().item()
        return float("nan") if dist.get_rank() == 1 else loss

    optimizer.step(closure)
    torch.testing.assert_close([param.detach() for param in parts.params], before, **EXACT)
    train(make, parts, net, optimizer, 2, start=2)
    assert all(param.isfinite().all() for param in parts.params)


# Shards of `fully_shard`.


@on_two_ranks(*GLOBAL, *EACH, *PLAIN, *LEARNED, *LINES)
def test_shards_step_as_one_process_on_the_joined_batch(make: Make) -> None:
    steps = STEPS if make.selects and make.looks_at_ranks else FEW
    parts, net, optimizer = shards(make)
    train(make, parts, net, optimizer, steps)
    assert_same_way(whole(net), optimizer, make, steps)


@on_two_ranks("gap-sgd-raw", "gap-adamw-each", "continuous-adamw", "aligned-sgd", "mean-adamw", "cautious-adamw")
def test_buffers_are_sharded_as_their_parameters(make: Make) -> None:
    parts, net, optimizer = shards(make)
    train(make, parts, net, optimizer, 3)
    for param in net.parameters():
        for name in [*make.buffers, *(["exp_avg_sq"] if make.family == "betas" else [])]:
            buffer = optimizer.state[param][name]
            assert isinstance(buffer, DTensor)
            assert buffer.placements == param.placements
            assert buffer.device_mesh == param.device_mesh
            assert buffer.shape == param.shape
            assert buffer.to_local().shape == param.to_local().shape


@on_two_ranks("gap-sgd-raw", "gap-adamw-each")
def test_replicas_of_shards_step_as_one_process(make: Make) -> None:
    """On a mesh of two dimensions."""
    for shape in ((WORLD, 1), (1, WORLD)):
        parts, net, optimizer = shards(make, init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")))
        train(make, parts, net, optimizer, 10)
        assert_same_way(whole(net), optimizer, make, 10)


# Shards of `FullyShardedDataParallel`.


@on_two_ranks(*GLOBAL, *PLAIN[:3])
def test_flat_shards_step_as_one_process_on_the_joined_batch(make: Make) -> None:
    steps = STEPS if make.looks_at_ranks else FEW
    for use_orig_params in (True, False):
        parts, net, optimizer = flat_shards(make, use_orig_params)
        train(make, parts, net, optimizer, steps)
        assert_same_way(summoned(net), optimizer, make, steps)


@on_two_ranks("gap-sgd-raw", "gap-adamw", "aligned-adam", "random-sgd", "mean-sgd", "cautious-adamw")
def test_the_state_of_flat_shards_is_gathered_and_handed_out_again(make: Make) -> None:
    for use_orig_params in (True, False):
        parts, net, optimizer = flat_shards(make, use_orig_params)
        train(make, parts, net, optimizer, 5)
        gathered = FullyShardedDataParallel.optim_state_dict(net, optimizer)
        names = {f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
        assert {name for name in names if set(make.buffers) <= set(gathered["state"][name])} == names
    # With original parameters torch gathers all tensors of one into the same memory on a CPU: nothing to compare.
    other_parts, other_net, other = flat_shards(make, use_orig_params=False)
    other_net.load_state_dict(net.state_dict())
    other.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(other_net, other, gathered))
    train(make, parts, net, optimizer, 5, start=5)
    train(make, other_parts, other_net, other, 5, start=5)
    torch.testing.assert_close(summoned(other_net), summoned(net), **EXACT)


# An optimizer in parts.


@on_two_ranks(*GLOBAL, "gap-sgd-each", *PLAIN)
def test_an_optimizer_in_parts_steps_as_one_process_on_the_joined_batch(make: Make) -> None:
    parts, net, optimizer = parts_of_an_optimizer(make)
    train(make, parts, net, optimizer)
    expected, single = alone(make)
    torch.testing.assert_close(parts.params, expected.params, **CLOSE)
    if make.selects and not make.selects_each:
        last = optimizer.optim.selection["last"]
        assert everywhere(last.item()) == [single.selection["last"].item()] * WORLD


# A momentum that moves. Each rank sees its shard through a projection of its own, and all add up what they have seen:
# the momentum is as good an estimate as that of one process, but another one.


@on_two_ranks(*MOVING)
def test_a_momentum_that_moves_is_the_same_on_every_rank_and_moves_all_shards(make: Make) -> None:
    for setup, gather in (
        (shards, whole),
        *((partial(flat_shards, use_orig_params=o), summoned) for o in (True, False)),
    ):
        parts, net, optimizer = setup(make)
        momenta = []
        for n in range(STEPS):
            train(make, parts, net, optimizer, 1, start=n)
            momenta.append(optimizer.momentum.item())
        assert everywhere(momenta) == [momenta] * WORLD
        assert len(set(momenta)) > 3
        if make.family == "momentum":
            torch.testing.assert_close([param.detach() for param in gather(net)], followed(momenta), **CLOSE)


def followed(momenta: Sequence[float]) -> list[Tensor]:
    """Where one process goes with these momenta."""
    parts = task()
    optimizer = torch.optim.SGD(parts.params, 0.05, momentum=0.5)
    for n, momentum in enumerate(momenta):
        optimizer.param_groups[0]["momentum"] = momentum
        parts.closure(optimizer, n)()
        optimizer.step()
    return [param.detach() for param in parts.params]


@on_two_ranks(*MOVING)
def test_a_momentum_that_moves_is_the_same_in_all_parts_of_an_optimizer_or_it_says_why_not(make: Make) -> None:
    try:
        parts, net, optimizer = parts_of_an_optimizer(make)
        train(make, parts, net, optimizer, 20)
        told = optimizer.optim.momentum.item()
    except (ValueError, RuntimeError) as error:
        told = str(error)
        assert "Continuous" in told
    assert everywhere(told) == [told] * WORLD


# Where a rule cannot be right it must not be silent.


@on_two_ranks(*LEARNED, *LINES)
def test_who_needs_the_loss_is_right_or_says_that_it_cannot_be(make: Make) -> None:
    """With flat shards or an optimizer in parts a rank may not know what it has to."""
    for setup in (lambda: flat_shards(make, True), lambda: flat_shards(make, False)):
        says_so_or_is_right(make, setup, summoned)
    says_so_or_is_right(make, lambda: parts_of_an_optimizer(make), lambda net: list(net.parameters()))


def says_so_or_is_right(make: Make, setup: Callable[[], Any], params: Callable[[Any], list[Tensor]]) -> None:
    try:
        parts, net, optimizer = setup()
        train(make, parts, net, optimizer, 10)
        error = ""
    except (ValueError, RuntimeError) as raised:
        error = str(raised)
    texts = everywhere(error)
    assert all(texts) or not any(texts), texts
    if error:
        assert "\n" not in error
        assert make.kind.__name__ in error
    else:
        expected, _ = alone(make, 10)
        torch.testing.assert_close([param.detach() for param in params(net)], expected.params, **CLOSE)


# Checkpoints of another number of processes.


SAVED = ("gap-sgd-raw", "gap-adamw-each", "aligned-sgd", "psd-shipped")


def stored(net: nn.Module, optimizer: Any) -> dict[str, Any]:
    optimizer.zero_grad()
    return {"net": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}


def resume(net: nn.Module, optimizer: Any, path: Path, no_dist: bool) -> None:
    state = stored(net, optimizer)
    dcp.load(state, checkpoint_id=path, no_dist=no_dist)
    net.load_state_dict(state["net"])
    set_optimizer_state_dict(net, optimizer, state["optimizer"])


@on_two_ranks(*SAVED, *MOVING, folder=True)
def test_a_checkpoint_of_two_ranks_comes_back_equal_to_one_and_the_other_way_round(make: Make, folder: Path) -> None:
    parts, net, optimizer = shards(make)
    train(make, parts, net, optimizer, 10)
    dcp.save(stored(net, optimizer), checkpoint_id=folder / "two")
    kept = kept_by(make, net, optimizer)
    if dist.get_rank() == 0:
        one = task()
        single = make(one.params, process_group=None)
        resume(one.net, single, folder / "two", no_dist=True)
        torch.testing.assert_close(kept_by(make, one.net, single), kept, **EXACT)
        dcp.save(stored(one.net, single), checkpoint_id=folder / "one", no_dist=True)
    dist.barrier()
    _, net, optimizer = shards(make)
    resume(net, optimizer, folder / "one", no_dist=False)
    torch.testing.assert_close(kept_by(make, net, optimizer), kept, **EXACT)


def kept_by(make: Make, net: nn.Module, optimizer: Any) -> list[Any]:
    """Parameters, the tensors shaped like them, and what was chosen."""
    shaped = [
        value.full_tensor() if isinstance(value, DTensor) else value.clone()
        for param in net.parameters()
        for name, value in sorted(optimizer.state[param].items())
        if value.dim() and (name.startswith((*make.buffers, "exp_avg_sq")) or make.policy)
    ]
    return [*(param.detach().clone() for param in whole(net)), *shaped, getattr(optimizer, "selection", {})]


@on_two_ranks(*SAVED, folder=True)
def test_a_checkpoint_of_two_ranks_is_resumed_by_one_and_the_other_way_round(make: Make, folder: Path) -> None:
    parts, net, optimizer = shards(make)
    train(make, parts, net, optimizer, 10)
    dcp.save(stored(net, optimizer), checkpoint_id=folder / "two")
    if dist.get_rank() == 0:
        one = task()
        single = make(one.params, process_group=None)
        resume(one.net, single, folder / "two", no_dist=True)
        one.train(make, single, 5, start=10)
        expected, _ = alone(make, 15)
        torch.testing.assert_close(one.params, expected.params, **CLOSE)
        dcp.save(stored(one.net, single), checkpoint_id=folder / "one", no_dist=True)
    dist.barrier()
    parts, net, optimizer = shards(make)
    resume(net, optimizer, folder / "one", no_dist=False)
    train(make, parts, net, optimizer, 5, start=15)
    assert_same_way(whole(net), optimizer, make, 20)


def test_every_class_is_tried_on_replicas() -> None:
    tried = {named(name).kind for name in (*GLOBAL, *EACH, *PLAIN, *LEARNED, *LINES)}
    leaves_out = {make.kind.__name__ for make in MAKES} - {kind.__name__ for kind in tried}
    assert leaves_out <= {
        f"{family}{kind}" for family in ("Gap", "AlignedMean", "Mean", "Random") for kind in ("Adam", "AdamW")
    }
