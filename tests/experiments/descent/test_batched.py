from dataclasses import replace

import pytest
import torch

from optrepro.experiments.descent import batched
from optrepro.experiments.descent.benchmark import Boxes
from optrepro.problems.functions import vlse
from optrepro.studies.comparison import OptimizerConfig

NAMES = ("sphere", "rosenbrock", "hartmann3", "forrester")
SETTINGS = [
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
]
CASES = [(cls.__name__, {}) for cls in sorted(batched.ROW_WISE, key=lambda cls: cls.__name__)] + SETTINGS
OUTSIDE = sorted(batched.OUTSIDE_ROW_WISE)


def entry(path, **settings):
    return OptimizerConfig.model_validate({"label": "x", "class": path, "settings": settings})


ADAM = entry("torch.optim.Adam")
LBFGS = entry("torch.optim.LBFGS", line_search_fn="strong_wolfe")


def boxes(*fs, count=3):
    """Functions, by name or themselves, from a few starts each."""
    fs = [vlse.get(f) if isinstance(f, str) else f for f in fs]
    generator = torch.Generator().manual_seed(0)
    return Boxes(fs, [torch.rand(count, f.dim, generator=generator, dtype=torch.float64) for f in fs])


def rates(suite, *values):
    """Learning rates of a suite's problems, one after the other and again."""
    return torch.tensor(values, dtype=torch.float64).repeat(len(suite.start))[: len(suite.start)]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_batch_takes_the_steps_that_each_problem_takes_alone(name, settings):
    module = "optrepro.optimizers.polyak" if name == "Polyak" else "torch.optim"
    optimizer, suite = entry(f"{module}.{name}", **settings), boxes(*NAMES)
    arguments = (optimizer, suite, rates(suite, 0.01, 0.3), 12)
    together, apart = batched.together(*arguments), batched.apart(*arguments)
    torch.testing.assert_close(together.values, apart.values, rtol=1e-9, atol=1e-12)
    for row, valid in enumerate(suite.valid):
        torch.testing.assert_close(together.points[:, row, valid], apart.points[:, row, valid])
        assert not together.points[:, row, ~valid].any()


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_class_of_another_package_that_is_run_in_a_batch_takes_the_steps_of_each_problem_alone(path):
    optimizer, suite = entry(path, weight_decay=0.1), boxes(*NAMES)
    arguments = (optimizer, suite, rates(suite, 0.01, 0.3), 12)
    together, apart = batched.together(*arguments), batched.apart(*arguments)
    torch.testing.assert_close(together.values, apart.values, rtol=1e-9, atol=1e-12)
    assert batched.row_wise(optimizer)
    assert not batched.row_wise(entry(path, use_gc=True))


def test_each_problem_is_run_with_its_own_rate():
    suite = boxes("sphere", "booth")
    own = rates(suite, 0.1, 0.001, 0.03)
    mixed = batched.descend(ADAM, suite, own, budget=5).points
    for rate in (0.1, 0.001, 0.03):
        alone = batched.descend(ADAM, suite, rates(suite, rate), budget=5).points
        assert torch.equal(mixed[:, own == rate], alone[:, own == rate])


def test_the_first_evaluation_is_at_the_start_and_values_are_those_at_the_points():
    suite = boxes(*NAMES)
    for optimizer in (ADAM, LBFGS):
        made = batched.descend(optimizer, suite, rates(suite, 0.1), budget=6)
        assert torch.equal(made.points[0].where(suite.valid, 0), suite.start)
        for points, values in zip(made.points, made.values, strict=True):
            there = values.isfinite()
            expected = suite.evaluate(points.where(suite.valid, 0).nan_to_num())[0]
            torch.testing.assert_close(values[there], expected[there])


def test_a_class_that_is_not_known_to_be_row_wise_runs_problem_by_problem(monkeypatch):
    asgd = entry("torch.optim.ASGD", lambd=0.0)  # without averaging and decay, it steps as SGD does
    assert not batched.row_wise(asgd)
    suite = boxes(*NAMES)
    monkeypatch.setattr(batched, "together", None)
    made = batched.descend(asgd, suite, rates(suite, 1e-3), 8)
    monkeypatch.undo()
    sgd = batched.descend(entry("torch.optim.SGD"), suite, rates(suite, 1e-3), 8)
    torch.testing.assert_close(made.values, sgd.values)


def test_a_schedule_free_optimizer_runs():
    suite = boxes("booth")
    values = batched.descend(entry("schedulefree.AdamWScheduleFree"), suite, rates(suite, 0.1), budget=30).values
    assert (values[-1] < values[0]).all()


def test_an_optimizer_that_draws_does_so_from_the_seed():
    random = entry("optrepro.optimizers.controls.RandomSGD")
    suite = boxes("booth")
    first, again, other = (batched.descend(random, suite, rates(suite, 1e-4), 12, seed).values for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_oracle_is_told_the_smallest_value_of_its_problem():
    suite = boxes("sphere", "branin")
    assert suite.optima.unique().numel() == 2
    made = batched.descend(entry("optrepro.optimizers.polyak.Polyak"), suite, rates(suite, 1.0), 60)
    regrets = made.values.amin(0) - suite.optima
    assert (regrets[:3] < 1e-9).all()
    assert (regrets[3:] < 0.1 * (made.values[0] - suite.optima)[3:]).all()


def test_an_optimizer_that_does_not_call_its_closure_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.optim.ASGD, "step", lambda self, closure=None: None)
    suite = boxes("sphere")
    with pytest.raises(ValueError, match=r"class = 'torch.optim.ASGD' is not allowed: its step must call"):
        batched.descend(entry("torch.optim.ASGD"), suite, rates(suite, 0.1), budget=3)


@pytest.mark.parametrize(
    "settings", [{}, {"max_iter": 3, "history_size": 2}, {"max_iter": 1, "max_eval": 4, "history_size": 1}]
)
def test_lbfgs_evaluates_where_torch_does(settings):
    """Near a minimum rounding decides how a search ends, so not on a quadratic, which it solves at once."""
    optimizer = entry("torch.optim.LBFGS", line_search_fn="strong_wolfe", **settings)
    suite = boxes("rosenbrock", "hartmann3", "colville", "beale", count=8)
    own = rates(suite, 1.0, 0.1, 10.0)
    lockstep, apart = batched.lockstep(optimizer, suite, own, 12), batched.apart(optimizer, suite, own, 12)
    torch.testing.assert_close(lockstep.values, apart.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(lockstep.points, apart.points, rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_lbfgs_stops_where_torch_does_at_something_not_finite(bad):
    sphere = vlse.get("sphere")
    suite = boxes(replace(sphere, formula=lambda x: torch.where(x[..., 0] < 0, bad, sphere.formula(x))), count=12)
    own = rates(suite, 3.0, 0.01)
    lockstep, apart = batched.lockstep(LBFGS, suite, own, 4), batched.apart(LBFGS, suite, own, 4)
    assert torch.equal(lockstep.diverged, apart.diverged)
    assert 0 < lockstep.diverged.sum() < 12
    assert torch.equal(lockstep.values.isfinite(), apart.values.isfinite())


def test_every_call_of_a_line_search_counts_and_the_budget_holds():
    calls = []
    rosenbrock = vlse.get("rosenbrock")
    counting = replace(rosenbrock, formula=lambda x: calls.append(x.shape) or rosenbrock.formula(x))
    values = batched.descend(LBFGS, boxes(counting, count=4), torch.full((4,), 0.1, dtype=torch.float64), 17).values
    assert values.isfinite().sum(0).max() == 17 == len(calls)


def test_lbfgs_stops_where_it_has_settled():
    suite = boxes("sphere")
    made = batched.descend(LBFGS, suite, rates(suite, 1.0), budget=100)
    assert made.values.isfinite().sum(0).max() < 40
    assert made.values.amin(0).max() < 1e-12
    assert not made.diverged.any()
    assert torch.equal(made.points[..., 0].isfinite(), made.values.isfinite())


class FarOut(torch.optim.Optimizer):
    """Asks for ever other points beyond the corner (1, ..., 1), then for the middle."""

    def __init__(self, params, lr=1.0):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure):
        (u,) = self.param_groups[0]["params"]
        for k in range(3 * batched.PATIENCE):
            u.fill_(2.0 + k)
            closure()
        u.fill_(0.5)
        closure()


class Puts(torch.optim.SGD):
    """Puts another tensor in the place of the parameter's, as some classes do."""

    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        for p in self.param_groups[0]["params"]:
            p.data = p.data - self.param_groups[0]["lr"] * p.grad
        return loss


class Settles(torch.optim.SGD):
    """Does not move."""

    def step(self, closure):
        return closure()


@pytest.mark.parametrize("cls", [torch.optim.Adam, Puts, Settles])
def test_runs_whose_evaluations_are_made_together_take_the_steps_that_each_takes_alone(cls, monkeypatch):
    monkeypatch.setattr(batched.factory, "optimizer_class", lambda path: cls)
    suite, budget = boxes(*NAMES), 2 * batched.PATIENCE
    arguments = (entry("not.used"), suite, rates(suite, 0.01, 0.3), budget)
    abreast, apart = batched.abreast(*arguments), batched.apart(*arguments)
    torch.testing.assert_close(abreast.values, apart.values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(abreast.points, apart.points, equal_nan=True)
    assert torch.equal(abreast.diverged, apart.diverged)


def test_a_search_beyond_one_corner_has_not_settled(monkeypatch):
    monkeypatch.setattr(batched.factory, "optimizer_class", lambda path: FarOut)
    suite = boxes("sphere", count=1)
    assert batched.descend(entry("not.used"), suite, rates(suite, 1.0), budget=100).values.min() == 0


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["L-BFGS", "Adam"])
def test_no_function_is_evaluated_outside_its_box(optimizer):
    suite = boxes(*NAMES)
    points = batched.descend(optimizer, suite, rates(suite, 0.8, 10.0), budget=20).points
    assert points.nan_to_num(0.5).min() >= 0
    assert points.nan_to_num(0.5).max() <= 1


@pytest.mark.parametrize("route", [batched.together, batched.abreast, batched.apart])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_run_that_meets_something_not_finite_stops_and_the_others_go_on(route, bad):
    sphere = vlse.get("sphere")
    holed = replace(sphere, formula=lambda x: torch.where(x[..., 0] < 0, bad, sphere.formula(x)))
    starts = torch.tensor([[0.9, 0.9], [0.52, 0.9]], dtype=torch.float64)  # the second one steps over the edge at 0.5
    suite = Boxes([holed], [starts])
    made = route(ADAM, suite, rates(suite, 0.03), 6)
    assert made.diverged.tolist() == [False, True]
    assert made.values[:, 0].isfinite().all()
    assert made.values[:, 1].isfinite().tolist() == [True] + 5 * [False]
    assert (made.values[1:, 1] == torch.inf).all()
