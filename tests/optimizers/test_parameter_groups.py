"""A user gives parameters in groups, with settings of their own, at once or later."""

from typing import Any

import pytest
import torch

from tests.optimizers.registry import Make, each_class, each_that
from tests.optimizers.task import (
    EXACT,
    Task,
    assert_is_as_it_was,
    assert_same_run,
    copies,
    feed,
    gradients,
    moved,
    parameters,
    saved,
    snapshot,
    trained,
)

several = each_that(lambda make: not make.one_group)


@several
def test_groups_keep_settings_of_their_own(make: Make) -> None:
    task = Task()
    before = copies(task.params)
    weights, biases = task.params[::2], task.params[1::2]
    optimizer = make([{"params": weights}, {"params": biases, "lr": 0.0}])
    task.train(make, optimizer, 3)
    assert moved(task.params, before) == [True, False, True, False]


@several
def test_parameters_in_two_groups_step_as_in_one(make: Make) -> None:
    """Whatever is chosen for all parameters is chosen over the groups."""
    task = Task()
    optimizer = make([{"params": task.params[:2]}, {"params": task.params[2:]}])
    task.train(make, optimizer, 12)
    assert_same_run((task, optimizer), trained(make), **make.order)


@several
def test_a_group_added_later_is_trained_and_saved_too(make: Make) -> None:
    task = Task()
    optimizer = make(task.params[:2])
    task.train(make, optimizer, 3)
    before = copies(task.params)
    optimizer.add_param_group({"params": task.params[2:]})
    task.train(make, optimizer, 3, start=3)
    assert all(moved(task.params, before))
    if make.selects_each and not make.name.startswith("mean"):
        assert optimizer.selection["counts"].sum(1).tolist() == pytest.approx([6, 6, 3, 3])
    resumed_task = Task().like(task)
    resumed = make(resumed_task.params[:2])
    resumed.add_param_group({"params": resumed_task.params[2:]})
    resumed.load_state_dict(saved(optimizer))
    task.train(make, optimizer, 3, start=6)
    resumed_task.train(make, resumed, 3, start=6)
    assert_same_run((resumed_task, resumed), (task, optimizer))


@several
@pytest.mark.parametrize("place", [0, 1])
def test_an_empty_group_trains_saves_and_loads(make: Make, place: int) -> None:
    def groups(params: Any) -> list[dict[str, Any]]:
        groups = [{"params": params}]
        groups.insert(place, {"params": []})
        return groups

    task = Task()
    optimizer = make(groups(task.params))
    task.train(make, optimizer, 3)
    resumed_task = Task().like(task)
    resumed = make(groups(resumed_task.params))
    resumed.load_state_dict(saved(optimizer))
    expected = trained(make, 6)
    for run in ((task, optimizer), (resumed_task, resumed)):
        run[0].train(make, run[1], 3, start=3)
        assert_same_run(run, expected)


@several
def test_what_began_with_an_empty_group_is_trained_once_there_is_another(make: Make) -> None:
    optimizer = make([{"params": []}])
    feed(make, optimizer, [])
    (param,) = parameters(3)
    optimizer.add_param_group({"params": [param]})
    before = copies([param])
    for grads in gradients([param], 3):
        feed(make, optimizer, grads)
    assert moved([param], before) == [True]


@each_that(lambda make: make.one_group)
def test_a_second_group_is_refused_where_all_share_one_step(make: Make) -> None:
    task = Task()
    with pytest.raises(ValueError, match="group"):
        make([{"params": task.params[:2]}, {"params": task.params[2:]}])
    optimizer = make(task.params[:2])
    task.train(make, optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="group"):
        optimizer.add_param_group({"params": task.params[2:]})
    assert_is_as_it_was(optimizer, before)


@each_class
def test_parameters_may_come_with_their_names(make: Make) -> None:
    task = Task()
    optimizer = make(task.net.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    task.train(make, optimizer, 12)
    assert_same_run((task, optimizer), trained(make))
    other = make(Task().net.named_parameters())
    other.load_state_dict(saved(optimizer))
    assert other.param_groups[0]["param_names"] == optimizer.param_groups[0]["param_names"]


@each_class
def test_no_parameters_at_all_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        make([])


@several
def test_a_parameter_given_twice_is_refused_and_the_optimizer_stays_as_it_was(make: Make) -> None:
    task = Task()
    with pytest.raises(ValueError, match="more than one parameter group"):
        make([{"params": task.params}, {"params": task.params[:1]}])
    optimizer = make(task.params)
    task.train(make, optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": task.params[:1]})
    assert_is_as_it_was(optimizer, before)


@each_that(lambda make: make.family)
def test_settings_of_a_group_may_change_between_steps(make: Make) -> None:
    """A change of the weight decay acts from the next step on."""
    runs = []
    for decay in (0.0, 0.5):
        task, optimizer = trained(make, 3)
        optimizer.param_groups[0]["weight_decay"] = decay
        task.train(make, optimizer, 1, start=3)
        runs.append(task.params)
    assert all(moved(*runs))


@each_that(lambda make: make.candidates == 1 and not (make.is_continuous and not make.is_fixed))
def test_groups_have_decays_of_their_own(make: Make) -> None:
    a, b = parameters(3, 3)
    c, d = parameters(3, 3)
    both = make([{"params": [a], "weight_decay": 0.0}, {"params": [b], "weight_decay": 0.3}])
    alone, decaying = make([c], weight_decay=0.0), make([d], weight_decay=0.3)
    for grads in gradients([a, b], 6):
        feed(make, both, grads)
        feed(make, alone, grads[:1])
        feed(make, decaying, grads[1:])
    torch.testing.assert_close([a, b], [c, d], **(make.rounding if make.rounding["rtol"] else EXACT))
