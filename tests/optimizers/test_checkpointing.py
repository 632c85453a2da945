"""A user saves an optimizer and goes on from what was saved, here or elsewhere."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from tests.optimizers.registry import Make, each, each_class, each_that, named
from tests.optimizers.task import (
    EXACT,
    Task,
    assert_is_as_it_was,
    assert_same_run,
    assert_same_state,
    copies,
    feed,
    gradients,
    moved,
    parameters,
    saved,
    snapshot,
    trained,
)

STOPS = (0, 1, 3, 20)  # of the continuous forms, 3 and 20 lie within a spell of watching


@each
def test_a_run_resumed_at_any_step_equals_the_uninterrupted_one(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    stored, weights = {}, {}
    for step in range(STOPS[-1] + 4):
        weights[step] = copy.deepcopy(task.net.state_dict())
        if step in STOPS:
            stored[step] = saved(optimizer), copy.deepcopy(getattr(optimizer, "selection", {}))
        task.train(make, optimizer, 1, start=step)
    for stop, (state, selection) in stored.items():
        resumed_task = Task()
        resumed_task.net.load_state_dict(weights[stop])
        resumed = make(resumed_task.params, 0.75)  # the rate is loaded, too
        resumed.load_state_dict(state)
        torch.testing.assert_close(getattr(resumed, "selection", {}), selection, **EXACT)
        assert_same_saved(resumed, state)
        resumed_task.train(make, resumed, 3, start=stop)
        torch.testing.assert_close(resumed_task.net.state_dict(), weights[stop + 3], **EXACT)


def assert_same_saved(optimizer: Any, stored: dict[str, Any]) -> None:
    """The optimizer would save this state again."""
    states = optimizer.state_dict()["state"]
    assert set(states) == set(stored["state"])
    for key, state in states.items():
        assert_same_state(state, stored["state"][key])


@each_that(lambda make: make.family)
def test_what_was_saved_of_joined_parameters_is_resumed_one_by_one_and_the_other_way_round(make: Make) -> None:
    for foreach in (True, False):
        task, optimizer = trained(make, 7, foreach=foreach)
        state = saved(optimizer)
        state["param_groups"][0]["foreach"] = not foreach
        resumed_task = Task().like(task)
        resumed = make(resumed_task.params)
        resumed.load_state_dict(state)
        task.train(make, optimizer, 5, start=7)
        resumed_task.train(make, resumed, 5, start=7)
        assert_same_run((resumed_task, resumed), (task, optimizer), **make.order)


@each
def test_loading_copies_so_that_no_two_optimizers_share_a_tensor(make: Make) -> None:
    task, optimizer = trained(make, 5)
    state = optimizer.state_dict()
    other_task = Task().like(task)
    other = make(other_task.params)
    other.load_state_dict(state)
    assert not places(optimizer.state.values()) & places(other.state.values())
    assert not places(state["state"].values()) & places(other.state.values())
    before = snapshot(optimizer)
    other_task.train(make, other, 5, start=5)
    assert_is_as_it_was(optimizer, before)


def places(states: Any) -> set[int]:
    """Where the tensors' elements lie in memory."""
    tensors = [value for state in states for value in state.values() if isinstance(value, Tensor) and value.numel()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@each
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_on_like_the_original_and_apart_from_it(make: Make, duplicate: Callable[[Any], Any]) -> None:
    for steps in (0, 5):
        task, optimizer = trained(make, steps)
        other_task, other = duplicate((task, optimizer))
        assert task.params[0] is not other_task.params[0]
        assert not places(optimizer.state.values()) & places(other.state.values())
        task.train(make, optimizer, 6, start=steps)
        other_task.train(make, other, 6, start=steps)
        assert_same_run((other_task, other), (task, optimizer))


@each
def test_loading_keeps_every_type_and_value_whatever_the_parameters_precision(make: Make) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        task, optimizer = trained(make, 5, dtype=dtype)
        other = make(Task(dtype).like(task).params)
        other.load_state_dict(optimizer.state_dict())
        assert_same_saved(other, optimizer.state_dict())


@each
def test_the_state_lies_in_a_safetensors_file_and_comes_back(make: Make, tmp_path: Path) -> None:
    task, optimizer = trained(make, 5)
    stored = optimizer.state_dict()
    flat = {f"{key}.{name}": value for key, state in stored["state"].items() for name, value in state.items()}
    save_file(flat, tmp_path / "state.safetensors")
    size = sum(tensor.nbytes for tensor in flat.values())
    assert (tmp_path / "state.safetensors").stat().st_size <= size + 150 * len(flat) + 100
    state: dict[int, dict[str, Tensor]] = {key: {} for key in stored["state"]}
    for name, value in load_file(tmp_path / "state.safetensors").items():
        key, name = name.split(".", 1)
        state[int(key)][name] = value
    resumed_task = Task().like(task)
    resumed = make(resumed_task.params)
    resumed.load_state_dict({"state": state, "param_groups": stored["param_groups"]})
    task.train(make, optimizer, 3, start=5)
    resumed_task.train(make, resumed, 3, start=5)
    assert_same_run((resumed_task, resumed), (task, optimizer))


@each
def test_saving_one_parameters_state_writes_no_more_than_that(make: Make) -> None:
    params = parameters(12, 8000)
    optimizer = make(params)
    for grads in gradients(params, 2):
        feed(make, optimizer, grads)
    state = optimizer.state_dict()["state"].get(0, {})
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < 2 * sum(value.nbytes for value in state.values()) + 1000 * (len(state) + 2)


# Distributed checkpoints, of one process.


@pytest.fixture
def alone() -> Iterator[None]:
    """Have torch say nothing of a checkpoint that a single process writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(single process|distributed|TypedStorage).*")
        yield


def written(net: nn.Module, optimizer: Any, path: Path, options: StateDictOptions) -> None:
    dcp.save({"optimizer": get_optimizer_state_dict(net, optimizer, options=options)}, checkpoint_id=path)


def read(net: nn.Module, optimizer: Any, path: Path, options: StateDictOptions) -> None:
    state = {"optimizer": get_optimizer_state_dict(net, optimizer, options=options)}
    dcp.load(state, checkpoint_id=path)
    set_optimizer_state_dict(net, optimizer, state["optimizer"], options=options)


@pytest.mark.usefixtures("alone")
@each
def test_a_distributed_checkpoint_goes_on_from_the_disk(make: Make, tmp_path: Path) -> None:
    goes_on_from_the_disk(make, tmp_path, StateDictOptions())


@pytest.mark.usefixtures("alone")
@each_class
def test_a_flat_distributed_checkpoint_goes_on_from_the_disk(make: Make, tmp_path: Path) -> None:
    goes_on_from_the_disk(make, tmp_path, StateDictOptions(flatten_optimizer_state_dict=True))


def goes_on_from_the_disk(make: Make, path: Path, options: StateDictOptions) -> None:
    task, optimizer = trained(make, 7)
    optimizer.zero_grad()
    written(task.net, optimizer, path, options)
    resumed_task = Task().like(task)
    resumed = make(resumed_task.params)
    read(resumed_task.net, resumed, path, options)
    task.train(make, optimizer, 5, start=7)
    resumed_task.train(make, resumed, 5, start=7)
    assert_same_run((resumed_task, resumed), (task, optimizer))


@pytest.mark.usefixtures("alone")
@each
def test_a_distributed_checkpoint_of_what_has_not_begun_moves_nothing(make: Make, tmp_path: Path) -> None:
    """To know the form of the state, torch takes a step without a closure on gradients of zero."""
    options = StateDictOptions()
    task, fresh_task = Task(), Task()
    optimizer, fresh = make(task.params), make(fresh_task.params)
    before = copies(task.params)
    written(task.net, optimizer, tmp_path, options)
    assert not any(moved(task.params, before))
    assert [group.get("lr") for group in optimizer.param_groups] == [group.get("lr") for group in fresh.param_groups]
    if make.needs_loss:  # torch's own optimizers count this step, and so do those that are like them
        task.train(make, optimizer, 5)
        fresh_task.train(make, fresh, 5)
        assert_same_run((task, optimizer), (fresh_task, fresh))


# Checkpoints of others.


def torchs(make: Make, **settings: Any) -> tuple[Task, torch.optim.Optimizer]:
    """Torch's optimizer of the same family after six steps."""
    task = Task()
    fixed = {"momentum": 0.9} if make.family == "momentum" else {}
    theirs: torch.optim.Optimizer = make.reference(task.params, lr=0.05, **{**fixed, **settings})
    further(task, theirs, 0)
    return task, theirs


def further(task: Task, optimizer: Any, start: int, steps: int = 6) -> None:
    for n in range(start, start + steps):
        task.closure(optimizer, n)()
        optimizer.step()


@each_that(lambda make: make.is_fixed and make.kind.__name__.startswith("Gap"))
def test_a_checkpoint_of_torchs_optimizer_goes_on_exactly_with_one_candidate(make: Make) -> None:
    task, theirs = torchs(make, **make.torch_settings, foreach=False)
    our_task = Task().like(task)
    ours = make(our_task.params, 0.75)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.05
    further(task, theirs, 6)
    further(our_task, ours, 6)
    torch.testing.assert_close(our_task.params, task.params, **EXACT)


@each_that(lambda make: make.kind.__name__.startswith("Gap") and not make.is_fixed)
def test_torchs_moments_become_those_of_every_candidate_and_the_candidates_stay(make: Make) -> None:
    task, theirs = torchs(make)
    our_task = Task().like(task)
    ours = make(our_task.params)
    candidates = ours.param_groups[0][make.family]
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0][make.family] == candidates
    for param, their_param in zip(our_task.params, task.params, strict=True):
        state, their_state = ours.state[param], theirs.state[their_param]
        for name, value in their_state.items():
            for own in make.buffers if name in ("exp_avg", "momentum_buffer") else (name,):
                assert state[own].item() == value.item() if value.dim() == 0 else torch.equal(state[own], value)
    before = copies(our_task.params)
    our_task.train(make, ours, 3, start=6)
    assert all(moved(our_task.params, before))
    assert ours.selection["counts"].sum(-1).tolist() == ([3] * 4 if make.selects_each else 3)


@each_that(lambda make: make.kind.__name__.startswith("Gap") and make.family == "betas")
def test_a_checkpoint_with_amsgrad_is_refused(make: Make) -> None:
    _, theirs = torchs(make, amsgrad=True)
    refuses(make, theirs.state_dict(), "amsgrad")


def refuses(make: Make, state: dict[str, Any], message: str = "", steps: int = 4) -> None:
    """Loading is refused in a line, and the run goes on as if nobody had tried."""
    task, optimizer = trained(make, steps)
    before = snapshot(optimizer)
    given = copy.deepcopy(state)
    with pytest.raises(ValueError, match=message) as error:
        optimizer.load_state_dict(state)
    assert "\n" not in str(error.value)
    assert str(state) == str(given)
    assert_is_as_it_was(optimizer, before)
    task.train(make, optimizer, 3, start=steps)
    assert_same_run((task, optimizer), trained(make, steps + 3))


@each
def test_a_checkpoint_of_quite_another_optimizer_is_refused(make: Make) -> None:
    task = Task()
    other = torch.optim.Rprop(task.params)
    further(task, other, 0, steps=2)
    for steps in (0, 4):
        refuses(make, other.state_dict(), steps=steps)


@pytest.mark.parametrize(
    ("source", "settings", "target"),
    [
        ("gap-sgd", {"momentum": (0.5, 0.9)}, "gap-sgd"),
        ("gap-sgd", {}, "gap-sgd-fixed"),
        ("gap-adamw", {"betas": ((0.5, 0.999), (0.9, 0.999))}, "gap-adamw"),
        ("random-adam", {}, "gap-adam-fixed"),
        ("gap-adam", {}, "gap-sgd"),
        ("gap-sgd", {}, "gap-adam"),
        ("gap-adam-fixed", {}, "gap-sgd-fixed"),
        ("gap-sgd", {}, "continuous-sgd"),
        ("pop", {}, "psd"),
        ("l2l", {}, "l2l-shipped"),
        ("psd-shipped", {}, "psd"),
        ("conjugate-gradient", {}, "pop"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(source: str, settings: dict[str, Any], target: str) -> None:
    _, other = trained(named(source), 3, **settings)
    refuses(named(target), other.state_dict())


@each
def test_a_checkpoint_of_parameters_of_other_shapes_or_number_is_refused(make: Make) -> None:
    for shapes in ((3, 4, 5, 6), (5,)):
        params = parameters(*shapes)
        optimizer = make(params)
        for grads in gradients(params, 2):
            feed(make, optimizer, grads)
        if make.name != "polyak" or len(shapes) != 4:  # it has no state to differ
            refuses(make, optimizer.state_dict())


@each_that(lambda make: "select" in make.settings or make.name in ("gap-sgd", "gap-adamw", "random-sgd", "aligned-sgd"))
@pytest.mark.parametrize("select", ["global", "per_parameter"])
def test_a_checkpoint_of_the_other_way_to_select_is_taken_over_or_refused(make: Make, select: str) -> None:
    other = "global" if select == "per_parameter" else "per_parameter"
    _, source = trained(make, 5, select=select)
    task, optimizer = trained(make, 2, select=other)
    try:
        optimizer.load_state_dict(source.state_dict())
    except ValueError:
        return
    before = copies(task.params)
    task.train(make, optimizer, 2)
    assert all(moved(task.params, before))
    assert torch.isfinite(torch.cat([param.detach().flatten() for param in task.params])).all()
    assert optimizer.selection["last"].shape == ((4,) if other == "per_parameter" else ())


@each_that(lambda make: not make.one_group)
def test_a_checkpoint_of_more_groups_than_there_are_left_is_refused(make: Make) -> None:
    task = Task()
    optimizer = make([{"params": task.params[:2]}, {"params": task.params[2:]}])
    task.train(make, optimizer, 3)
    both = optimizer.state_dict()
    for param in optimizer.param_groups.pop()["params"]:
        optimizer.state.pop(param, None)
        param.requires_grad_(False)
    with pytest.raises(ValueError, match="groups"):
        optimizer.load_state_dict(both)
    try:
        task.train(make, optimizer, 2, start=3)
    except ValueError:
        return  # what was measured over all parameters says nothing of some
    remaining = optimizer.state_dict()
    other = make(task.params[:2])
    other.load_state_dict(remaining)
    assert_same_saved(other, remaining)


@each_that(lambda make: make.needs_loss)
def test_a_policy_is_no_part_of_the_state(make: Make) -> None:
    _, optimizer = trained(make, 3)
    size = sum(value.nbytes for state in optimizer.state_dict()["state"].values() for value in state.values())
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    entries = sum(len(state) for state in optimizer.state_dict()["state"].values())
    assert file.tell() < size + 500 * entries + 3000


# Hooks, as torch calls them.


@each_class
def test_hooks_on_saving_and_loading_are_called(make: Make) -> None:
    _, optimizer = trained(make, 2)
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda optimizer: calls.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda optimizer, state: {**state, "note": calls.append("after saving")})
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, state: calls.append("before loading"))
    optimizer.register_load_state_dict_post_hook(lambda optimizer: calls.append("after loading"))
    state = optimizer.state_dict()
    assert "note" in state
    optimizer.load_state_dict(state)
    assert calls == ["before saving", "after saving", "before loading", "after loading"]
