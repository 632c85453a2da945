from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from optrepro import config, runtable
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import COLUMNS
from optrepro.experiments.descent import benchmark, surfaces
from optrepro.problems.functions import vlse
from optrepro.studies.comparison import OptimizerConfig


def entry(path, **settings):
    return OptimizerConfig.model_validate({"label": "x", "class": path, "settings": settings})


def starts_of(fs, count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(count, f.dim, generator=generator, dtype=torch.float64) for f in fs]


def test_each_function_is_run_with_its_own_rates():
    fs = [vlse.get("sphere"), vlse.get("booth")]
    starts, rates = starts_of(fs), torch.tensor([[0.1, 0.2], [0.001, 0.01]], dtype=torch.float64)
    both = benchmark.descend(entry("torch.optim.Adam"), fs, starts, rates, budget=5)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        one = (fs[i : i + 1], starts[i : i + 1], rates[i : i + 1, j : j + 1])
        alone = benchmark.descend(entry("torch.optim.Adam"), *one, budget=5)
        assert torch.equal(both.values[:, i, j], alone.values[:, 0, 0])
        assert torch.equal(both.paths[:, i, j], alone.paths[:, 0, 0])


def test_a_step_of_gradient_descent_is_taken_in_box_coordinates_and_projected():
    f = vlse.get("sphere")  # on +-5.12, so x = 10.24 u - 5.12 and df/du = 20.48 x
    start, rates = torch.tensor([[0.75, 0.5]], dtype=torch.float64), torch.tensor([[0.001, 1.0]], dtype=torch.float64)
    paths = benchmark.descend(entry("torch.optim.SGD"), [f], [start], rates, budget=2).paths
    assert paths[1, 0, 0].tolist() == pytest.approx([0.75 - 0.001 * 20.48 * 2.56, 0.5])
    assert paths[1, 0, 1].tolist() == [0, 0.5]


def test_one_function_of_the_boxes_alone_is_that_of_the_batch():
    fs = [vlse.get(name) for name in ("sphere", "hartmann3", "forrester")]
    boxes = benchmark.Boxes(fs, starts_of(fs, 2))
    values, gradients = boxes.evaluate(boxes.start)
    assert boxes.valid.sum(-1).tolist() == [2, 2, 3, 3, 1, 1]
    assert boxes.optima.tolist() == [f.optimum for f in fs for _ in range(2)]
    for row in range(6):
        value, gradient = boxes.one(row)(boxes.start[row, boxes.valid[row]])
        torch.testing.assert_close(value, values[row])
        torch.testing.assert_close(gradient, gradients[row, boxes.valid[row]])
        assert not gradients[row, ~boxes.valid[row]].any()


def test_a_run_that_meets_something_not_finite_keeps_the_regret_of_its_best_value():
    sphere = vlse.get("sphere")
    holed = replace(sphere, formula=lambda x: torch.where(x[..., 0] < 0, torch.nan, sphere.formula(x)))
    start, rates = torch.tensor([[0.52, 0.9]], dtype=torch.float64), torch.tensor([[0.03]], dtype=torch.float64)
    result = benchmark.descend(entry("torch.optim.Adam"), [holed], [start], rates, 6)
    assert result.diverged.item()
    assert benchmark._regrets(result, [holed])[-1].item() == pytest.approx(result.values[0].item())


def test_digits_gained_are_mean_decades_of_regret_at_most_twelve_and_none_from_an_optimal_start():
    first = np.array([[[1.0, 100.0, 0.0, np.inf]]])
    final = np.array([[[1e-3, 0.0, 0.0, np.inf]]])
    assert benchmark._digits_gained(np.stack([first, final])) == pytest.approx((3 + 12 + 0 + 0) / 4)


@pytest.mark.parametrize("budget", [1, 30, 200, 1000])
def test_regrets_are_recorded_from_the_start_to_the_end_of_the_budget(budget):
    steps = benchmark.recorded(budget)
    assert steps[0] == 1
    assert steps[-1] == budget
    assert (np.diff(steps) > 0).all()
    assert (steps[1:] / steps[:-1] <= 2).all()


def settings(**changes):
    optimizers = {
        "adam": {"label": "Adam", "class": "torch.optim.Adam"},
        "lbfgs": {"label": "L-BFGS", "class": "torch.optim.LBFGS", "settings": {"line_search_fn": "strong_wolfe"}},
        "polyak": {"label": "Polyak", "class": "optrepro.optimizers.polyak.Polyak"},
    }
    study = {
        "kind": "functions",
        "functions": ["sphere", "easom", "forrester", "bukin6"],
        "budget": 12,
        "tuning_starts": 2,
        "starts": 3,
        "learning_rates": [0.01, 0.1, 0.3],
        "optimizers": optimizers,
    }
    return config.build([("test", {"scale": "test", "seed": 1, "studies": {"vlse": {**study, **changes}}})])


def run(optimizer, checkpoint=None, **changes):
    resolved = settings(**changes)
    batch = next(batch for batch in runtable.batches(resolved, "vlse") if batch.name == optimizer)
    context = Context(seed=1, device=torch.device("cpu"), checkpoint=checkpoint or Checkpoint(None))
    return benchmark.run(resolved.studies["vlse"], batch, context), batch


@pytest.fixture(scope="module", params=["adam", "lbfgs", "polyak"])
def results(request):
    return run(request.param)


def test_every_run_of_the_run_table_leaves_tidy_rows(results):
    table, batch = results
    assert list(table.columns) == list(COLUMNS)
    assert set(table.run) == {run.id for run in batch.runs}
    assert not table.value.isna().any()


def test_the_rate_with_the_highest_tuning_score_is_tested_and_the_smaller_among_equals(results):
    table, _ = results
    for name, rows in table.groupby("workload"):
        scores = rows[rows.metric == "tuning_score"].set_index("learning_rate").value
        assert sorted(scores.index) == [0.01, 0.1, 0.3]
        best = min(rate for rate in scores.index if scores[rate] == scores.max())
        assert set(rows[rows.role == "test"].learning_rate) == {best}, name


def test_regrets_never_rise_and_are_never_negative(results):
    table, _ = results
    regrets = table[table.metric == "regret"].pivot(index=["workload", "seed"], columns="step", values="value")
    assert list(regrets.columns) == [1, 2, 3, 5, 7, 10, 12]
    assert len(regrets) == 4 * 3
    assert (regrets.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    assert (regrets >= 0).all(axis=None)


def test_the_rows_say_what_the_analysis_must_know_of_a_function(results):
    table, _ = results
    facts = table[table.step == 0].pivot_table(index="workload", columns="metric", values="value")
    assert facts.loc["sphere", "range"] == pytest.approx(2 * 5.12**2, rel=1e-3)
    assert facts.smooth.to_dict() == {"sphere": 1, "easom": 1, "forrester": 1, "bukin6": 0}
    assert facts.dimension.to_dict() == {"sphere": 2, "easom": 2, "forrester": 1, "bukin6": 2}
    assert facts.loc["sphere", "group[bowl]"] == 1


def test_paths_are_the_points_of_the_first_start_of_functions_of_two_variables(results):
    table, _ = results
    path = table[table.metric.isin(["x0", "x1"])].pivot(index=["workload", "step"], columns="metric", values="value")
    assert set(path.index.get_level_values(0)) == {"sphere", "easom", "bukin6"}
    first = table[(table.metric == "regret") & (table.step == 1) & (table.seed == 0)].set_index("workload").value
    x0, x1 = path.loc["sphere", 1]
    assert x0**2 + x1**2 == pytest.approx(first["sphere"], rel=1e-3)


def test_optimizers_are_run_from_the_same_starts():
    tables = [run(name)[0] for name in ("adam", "lbfgs", "polyak")]
    first = [table[(table.metric == "regret") & (table.step == 1)].value.tolist() for table in tables]
    assert first[0] == first[1] == first[2]


def test_no_test_start_is_a_tuning_start():
    batch = runtable.batches(settings(), "vlse")[0]
    f = vlse.get("sphere")
    points = [benchmark.starts_of(f, 4, run.seed) for run in batch.runs if run.workload == "sphere"]
    tuning, test = points[0], points[-1]
    assert torch.equal(points[0], points[1])  # all rates are tuned on the same starts
    assert torch.cdist(tuning, test).min() > 0


def test_a_function_keeps_its_own_dimension_where_the_studys_does_not_exist():
    table, _ = run("adam", dimension=3, functions=["sphere", "branin", "powell"])
    dimensions = table[table.metric == "dimension"].set_index("workload").value.to_dict()
    assert dimensions == {"sphere": 3, "branin": 2, "powell": 4}


class StopsAtThird(Checkpoint):
    def step(self, state):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            self.save(state())
            raise Interrupted(75)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        run("lbfgs", StopsAtThird(path))
    resumed, _ = run("lbfgs", Checkpoint(path))
    whole, _ = run("lbfgs")
    pd.testing.assert_frame_equal(resumed, whole)


def test_surfaces_hold_values_by_rows_of_the_second_coordinate():
    mccormick = vlse.get("mccormick")
    values = surfaces.surface(mccormick, 9)
    lower, upper = mccormick.lower, mccormick.upper
    assert values[0, 8] == mccormick(torch.stack([upper[0], lower[1]]))
    assert values[8, 0] == mccormick(torch.stack([lower[0], upper[1]]))


def test_the_surfaces_study_has_the_functions_of_two_variables_only():
    study = {"kind": "surfaces", "functions": ["sphere", "forrester", "branin"], "resolution": 8}
    resolved = config.build([("test", {"scale": "test", "seed": 1, "studies": {"surf": study}})])
    (batch,) = runtable.batches(resolved, "surf")
    context = Context(seed=1, device=torch.device("cpu"), checkpoint=Checkpoint(None))
    table = surfaces.run(resolved.studies["surf"], batch, context)
    assert list(table.columns) == list(COLUMNS)
    counts = table[table.metric == "surface"].groupby("workload").size()
    assert counts.to_dict() == {"sphere": 64, "branin": 64}
    assert (table[table.workload == "branin"].metric == "minimizer[0]").sum() == 3
