"""The exhibit pop-networks, drawn from made-up studies whose truth is known."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.exhibits import drawing

from optrepro.analysis import comparison
from optrepro.analysis.results import Facts, StudyResults
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop import networks

ACCURACY = {"pop": 0.90, "momentum": 0.93, "adam": 0.92}
COLUMNS = ["run", "study", "workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]
STEPS = (50, 100)


def rows(name: str, diverged: str | None) -> Iterator[list[object]]:
    rng = np.random.default_rng(0)
    plan = [("tune", rate, seed) for rate in (0.1, 0.3, 1.0) for seed in range(2)]
    plan += [("test", 0.3, seed) for seed in range(5)]
    for key, level in ACCURACY.items():
        for role, rate, seed in plan:
            head = [f"{key}/{role}/{rate}/{seed}", name, "made-up", key, role, rate, seed]
            reached = level - 0.05 * (rate != 0.3) + 0.002 * rng.standard_normal()
            if key == diverged:
                yield [*head, STEPS[-1], "diverged", 1.0]
                continue
            for step in STEPS if role == "test" else STEPS[-1:]:
                now = reached - 0.1 * (step < STEPS[-1])
                for metric, value in (("train_loss", 1 - now), ("validation_accuracy", now)):
                    yield [*head, step, metric, value]
                if role == "test":
                    yield [*head, step, "test_accuracy", now]
                    yield [*head, step, "test_loss", 1 - now]


def study(name: str, diverged: str | None = None, missing: tuple[str, ...] = ()) -> StudyResults:
    optimizers = {
        key: {"label": key.title(), "group": "policy" if key == "pop" else "fixed", "settings": {}} for key in ACCURACY
    }
    settings = {
        "network": "perceptron",
        "network_settings": {"hidden": 16},
        "batch_size": 128,
        "steps": 100,
        "learning_rates": [0.1, 0.3, 1.0],
        "tuning_repetitions": 2,
        "test_repetitions": 5,
        "optimizers": optimizers,
    }
    runs = pd.DataFrame(rows(name, diverged), columns=COLUMNS)
    facts = Facts(name, "laptop", settings, f"{name.title()} (1,000 images)", (), runs.run.nunique(), missing)
    return StudyResults(runs[~runs.run.isin(missing)], facts)


def material(*studies: StudyResults) -> Material:
    tables = {}
    for made in studies:
        tables[f"{made.facts.study}-scores"] = comparison.scores(made)
        tables[f"{made.facts.study}-curves"] = comparison.curves(made)
    return Material(tables, {made.facts.study: made.facts for made in studies})


def drawn(made: Material) -> Figure:
    figure = networks.figure(made)
    figure.draw_without_rendering()
    return figure


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def test_figure_fits_the_page_and_every_axis_is_labelled() -> None:
    figure = drawn(material(study("pop-digits"), study("pop-mnist")))
    drawing.assert_fits_the_page(figure)
    panels = figure.findobj(Axes)
    assert len(panels) == 6
    assert all(axes.get_xlabel() for axes in panels)


def test_each_study_is_named_by_its_data_and_network() -> None:
    shown = texts(drawn(material(study("pop-digits"), study("pop-mnist"))))
    assert "Pop-Digits, perceptron with 16 hidden units" in shown
    assert "Pop-Mnist, perceptron with 16 hidden units" in shown


def test_the_table_compares_with_the_baseline_that_is_best_in_tuning() -> None:
    table = networks.table(material(study("pop-digits"))).set_index("optimizer")
    column = table["difference to the best baseline (points)"]
    assert column["Momentum"] == "–"
    assert float(column["Pop"].split()[0]) == pytest.approx(-3, abs=0.3)
    assert not table.isna().any().any()


def test_a_rate_at_the_end_of_its_grid_is_marked() -> None:
    made = study("pop-digits")
    ending = made.runs.assign(learning_rate=made.runs.learning_rate.replace({0.3: 1.0, 1.0: 0.3}))
    labels = networks.table(material(StudyResults(ending, made.facts))).optimizer
    assert labels.tolist() == ["Pop †", "Momentum †", "Adam †"]


@pytest.mark.parametrize("diverged", ["pop", "momentum"])
def test_an_optimizer_whose_runs_all_diverged_is_shown_as_such(diverged: str) -> None:
    made = material(study("pop-digits", diverged))
    drawn(made)
    counts = networks.table(made).set_index("optimizer").diverged
    assert counts[diverged.title()] == 5
    assert counts.sum() == 5


def test_a_missing_run_marks_the_figure_as_partial() -> None:
    figure = drawn(material(study("pop-digits", missing=("adam/test/0.3/2",))))
    assert figure.get_suptitle().startswith("PARTIAL: 1 of ")
