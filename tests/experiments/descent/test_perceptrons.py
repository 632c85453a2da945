from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optrepro import config, runtable
from optrepro.config import ConfigError
from optrepro.experiments.base import data, factory
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import COLUMNS
from optrepro.experiments.descent import perceptrons
from optrepro.metalearning.lto import rollouts
from optrepro.optimizers import _learned
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.problems.networks.perceptrons import Perceptrons
from optrepro.studies.base import datasets_of
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.learner import ObjectiveConfig

TINY = """
scale: tiny-lto
seed: 5
studies:
  lto:
    kind: objectives
    tuning: {dataset: [digits], inputs: 6, hidden: 5, batch_size: 8, steps: 12}
    tuning_repetitions: 2
    panels:
      narrow: {dataset: [digits], inputs: 6, hidden: 5, batch_size: 8, steps: 12}
      wide: {dataset: [digits], inputs: 7, hidden: 9, batch_size: 4, steps: 20}
    examples: 100
    evaluations: 5
    repetitions: 3
    learning_rates: [0.01, 0.1, 1.0e+4]
    optimizers:
      sgd: {label: SGD, group: first-order, class: torch.optim.SGD}
      adagrad: {label: AdaGrad, group: first-order, class: torch.optim.Adagrad}
      lbfgs:
        label: L-BFGS
        group: quasi-newton
        class: torch.optim.LBFGS
        settings: {max_iter: 1, max_eval: 5, line_search_fn: strong_wolfe}
      conjugate-gradient:
        label: CG
        group: quasi-newton
        class: optrepro.optimizers.conjugate_gradient.ConjugateGradient
        settings: {line_search: armijo}
      l2l: {label: L2L, group: policy, class: optrepro.optimizers.l2l.L2L}
"""
CLASSIC = ("sgd", "adagrad", "lbfgs", "conjugate-gradient")
CONTENDERS = (*CLASSIC, "l2l")
RECORDED = {"tuning": [0, 3, 6, 9, 12], "narrow": [0, 3, 6, 9, 12], "wide": [0, 5, 10, 15, 20]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny-lto.yaml"
    path.write_text(TINY)
    return lambda *overrides: config.load(path, overrides)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained rule in a file."""
    path = tmp_path_factory.mktemp("weights") / "policy.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _learned.save(L2LPolicy(L2LSettings(cells=4)), path)
    return path


@pytest.fixture(scope="module")
def arguments(tiny, weights):
    """A function from a contender to its study, batch and context."""

    def make(name, checkpoint=None, overrides=()):
        settings = tiny(*overrides)
        study = settings.studies["lto"]
        batch = next(batch for batch in runtable.batches(settings, "lto") if batch.name == name)
        datasets = datasets_of(study, settings)
        rule = weights if name == "l2l" else None
        checkpoint = checkpoint or Checkpoint(None)
        return study, batch, Context(settings.seed, torch.device("cpu"), checkpoint, weights=rule, datasets=datasets)

    return make


@pytest.fixture(scope="module")
def tables(arguments):
    return {name: perceptrons.run(*arguments(name)) for name in CONTENDERS}


def select(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def curves_of(table, workload, **values):
    """Objectives by run and step."""
    rows = select(table, workload=workload, metric="objective", **values)
    return rows.pivot(index=["learning_rate", "seed"], columns="step", values="value")


# Rows


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_run_of_the_run_table_leaves_a_curve_at_the_recorded_iterations(name, tables, arguments):
    table, (_, batch, _) = tables[name], arguments(name)
    assert list(table.columns) == list(COLUMNS)
    assert set(table.run) == {run.id for run in batch.runs}
    for run in batch.runs:
        rows = select(table, run=run.id, metric="objective")
        assert rows.step.tolist() == RECORDED[run.workload]
        assert set(rows.seed) == {run.repetition}
        assert set(rows.role) == {run.role}
        if run.role == "tune":
            assert set(rows.learning_rate) == {run.learning_rate}
    assert not table.value.isna().any()
    assert not table.duplicated(["run", "metric", "step"]).any()


def test_learned_optimizers_are_not_tuned_and_have_no_rate(tables):
    assert set(tables["l2l"].workload) == {"narrow", "wide"}
    assert tables["l2l"].learning_rate.isna().all()


@pytest.mark.parametrize("name", CLASSIC)
def test_the_tuned_rate_is_that_of_the_smallest_mean_area(name, tables):
    curves = curves_of(tables[name], "tuning", role="tune")
    areas = np.trapezoid(curves, curves.columns, axis=1) / 12
    means = {rate: areas[curves.index.get_level_values(0) == rate].mean() for rate in (0.01, 0.1, 1e4)}
    best = min(means, key=means.get)
    assert set(select(tables[name], role="test").learning_rate) == {best}
    assert best != 1e4


def test_repetitions_start_from_the_same_points_whatever_the_optimizer(tables):
    for workload, roles in {"tuning": "tune", "narrow": "test", "wide": "test"}.items():
        starts = [
            dict(zip(rows.seed, rows.value, strict=True))
            for name in CONTENDERS
            for _, rows in select(tables[name], workload=workload, role=roles, metric="objective", step=0).groupby(
                "learning_rate", dropna=False
            )
        ]
        assert all(each == starts[0] for each in starts)
        assert len(starts) in (4 * 3, 5)
        assert len(set(starts[0].values())) == len(starts[0])


@pytest.mark.parametrize("name", CLASSIC)
def test_runs_that_diverge_are_marked_where_they_first_exceed_twice_their_start(name, tables):
    table = tables[name]
    for run, rows in table.groupby("run"):
        curve = select(rows, metric="objective").set_index("step").value
        above = curve[(curve > 2 * curve[0]) | ~np.isfinite(curve)]
        marks = select(rows, metric="diverged")
        assert marks.step.tolist() == above.index[:1].tolist(), run
        assert set(marks.value) <= {1.0}
    marked = set(select(table, metric="diverged").learning_rate)
    assert marked == (set() if name == "lbfgs" else {1e4})  # a line search that interpolates saves it


def test_a_curve_is_infinite_from_the_first_value_on_that_is_not_finite():
    nan, inf = float("nan"), float("inf")
    curves = torch.tensor([[1.0, 1.0, 1.0], [nan, 2.0, inf], [3.0, 3.0, 4.0]])
    assert perceptrons._finite(curves).tolist() == [[1.0, 1.0, 1.0], [inf, 2.0, inf], [inf, 3.0, inf]]


def test_recorded_iterations_hold_the_start_and_the_end():
    assert perceptrons.recorded(400, 41) == list(range(0, 401, 10))
    assert perceptrons.recorded(10, 4) == [0, 3, 7, 10]
    assert perceptrons.recorded(3, 40) == [0, 1, 2, 3]


# Runs


class Precise(Perceptrons):
    """In float64: a line search decides on differences that are rounding in float32."""

    def start(self):
        return super().start().double()


@pytest.fixture(scope="module")
def problems():
    images = data.whole("digits", "cpu")
    entry = ObjectiveConfig(inputs=6, hidden=5, batch_size=8, steps=15)
    made = data.objectives(images.train, images.classes, entry, 100, [1, 2, 3])
    return Precise(made.inputs.double(), made.labels, made.hidden, made.classes, made.batch_size, made.seeds)


def one_by_one(optimizer, problems, row, rate, record):
    """Training of one perceptron as PyTorch's users write it."""
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 10)).double()
    nn.utils.vector_to_parameters(problems.start()[row], network.parameters())
    stepper = factory.make(optimizer, list(network.parameters()), rate)

    def closure(examples):
        stepper.zero_grad()
        loss = F.cross_entropy(network(problems.inputs[row, examples]), problems.labels[row, examples])
        loss.backward()
        return loss

    curve = []
    for iteration, examples in enumerate(problems.minibatches(record[-1] + 1)[:, row]):
        if iteration in record:
            curve.append(F.cross_entropy(network(problems.inputs[row]), problems.labels[row]).item())
        stepper.step(partial(closure, examples))
    return curve


@pytest.mark.parametrize("name", [*CLASSIC, "momentum", "adam"])
def test_stacked_runs_are_those_of_one_network_after_the_other(name, tiny, problems):
    more = {
        "momentum": {"class": "torch.optim.SGD", "settings": {"momentum": 0.9}},
        "adam": {"class": "torch.optim.Adam"},
    }
    study = tiny().studies["lto"]
    optimizer = OptimizerConfig(label="", **more[name]) if name in more else study.entry(name)
    record, rates = [0, 1, 4, 15], (0.02, 0.1)
    stacked = perceptrons.descend(optimizer, problems.rows([0, 1, 2, 0, 1, 2]), rates, record)
    for row in range(6):
        alone = one_by_one(optimizer, problems, row % 3, rates[row // 3], record)
        np.testing.assert_allclose(stacked[:, row].numpy(), alone, rtol=1e-6)
    assert (stacked[-1] < stacked[0]).all()


def test_a_run_that_diverges_leaves_the_others_alone(tiny, problems):
    study = tiny().studies["lto"]
    for name in CLASSIC:
        with_others = perceptrons.descend(study.entry(name), problems.rows([0, 0]), (0.02, 1e30), [0, 15])
        alone = perceptrons.descend(study.entry(name), problems.rows([0]), (0.02,), [0, 15])
        torch.testing.assert_close(with_others[:, :1], alone)


def test_a_run_whose_gradient_is_not_finite_ends(problems):
    gradient_descent = OptimizerConfig(label="", class_="torch.optim.LBFGS", settings={"max_iter": 1})
    curve = perceptrons.descend(gradient_descent, problems, (1e38,), [0, 5, 15])
    assert curve[0].isfinite().all()
    assert (curve[-1] == torch.inf).all()


def test_a_learned_rule_runs_from_its_trained_weights(tables, arguments, weights):
    _, batch, context = arguments("l2l")
    rule, _ = _learned.load(L2LPolicy, L2LSettings, weights)
    job = perceptrons._Job(*arguments("l2l"))
    runs = [run for run in batch.runs if run.workload == "wide"]
    expected = rollouts.roll_out(rule, job._objectives("wide", runs), RECORDED["wide"])
    curves = curves_of(tables["l2l"].fillna({"learning_rate": 0}), "wide")
    np.testing.assert_allclose(curves.to_numpy().T, expected.numpy(), rtol=1e-3)
    assert context.weights == weights


def test_a_policy_row_that_is_no_learned_optimizer_is_an_error_that_says_so(arguments):
    study, batch, context = arguments("l2l", overrides=["studies.lto.optimizers.l2l.class=torch.optim.SGD"])
    with pytest.raises(ConfigError, match=r"class = 'torch.optim.SGD'.*LearnedOptimizer"):
        perceptrons.run(study, batch, context)


# Resuming


@pytest.mark.parametrize("name", ["sgd", "l2l"])
def test_a_run_stopped_after_every_part_equals_the_uninterrupted_one(name, tables, arguments, tmp_path):
    slices = 0
    while True:
        checkpoint = Checkpoint(tmp_path / f"{name}.pt", time_slice=0)
        try:
            table = perceptrons.run(*arguments(name, checkpoint))
        except Interrupted:
            slices += 1
            continue
        break
    assert slices == (2 if name == "l2l" else 3)
    assert table.equals(tables[name])


def test_progress_counts_the_tuning_and_the_panels(arguments):
    told = []
    study, batch, context = arguments("sgd")
    perceptrons.run(study, batch, replace(context, progress=lambda *args: told.append(args)))
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
