import math

import pandas as pd
import pytest

from optrepro.experiments.base.tuning import tuned_learning_rate, tuning_scores


def runs(*rows: tuple[str, str, float, int, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["run", "role", "learning_rate", "step", "metric", "value"])


def tuning(values: dict[float, list[float]]) -> pd.DataFrame:
    """One run for each value of "accuracy"."""
    rows = [(f"{rate}-{i}", "tune", rate, 10, "accuracy", v) for rate, of in values.items() for i, v in enumerate(of)]
    return runs(*rows)


def test_the_rate_of_the_highest_mean_wins() -> None:
    assert tuned_learning_rate(tuning({0.1: [0.9, 0.1], 1.0: [0.6, 0.6], 0.01: [0.4]}), "accuracy", 0) == 1.0


def test_among_equals_the_smaller_rate_wins_wherever_it_stands() -> None:
    assert tuned_learning_rate(tuning({1.0: [0.6], 0.1: [0.6], 10.0: [0.6]}), "accuracy", 0) == 0.1


def test_scores_are_the_means_by_ascending_rate() -> None:
    scores = tuning_scores(tuning({1.0: [0.2, 0.4], 0.1: [0.5]}), "accuracy", 0)
    assert list(scores.index) == [0.1, 1.0]
    assert scores.to_list() == pytest.approx([0.5, 0.3])


def test_the_value_at_the_last_step_counts_wherever_it_stands() -> None:
    rows = runs(
        ("a", "tune", 0.1, 20, "accuracy", 0.5),
        ("a", "tune", 0.1, 10, "accuracy", 0.9),
        ("b", "tune", 1.0, 20, "accuracy", 0.6),
    )
    assert tuning_scores(rows, "accuracy", 0).to_list() == [0.5, 0.6]


def test_a_diverged_run_counts_as_failed() -> None:
    rows = pd.concat([tuning({0.1: [0.9], 1.0: [0.4, 0.4]}), runs(("c", "tune", 0.1, 10, "diverged", 1.0))])
    assert tuning_scores(rows, "accuracy", 0).to_list() == [0.45, 0.4]
    assert tuning_scores(rows, "accuracy", -1).to_list() == pytest.approx([-0.05, 0.4])


def test_what_a_diverged_run_had_reached_before_does_not_count() -> None:
    rows = pd.concat([tuning({0.1: [0.9], 1.0: [0.4]}), runs(("0.1-0", "tune", 0.1, 20, "diverged", 1.0))])
    assert tuned_learning_rate(rows, "accuracy", 0) == 1.0


def test_if_every_run_diverged_the_smallest_rate_is_taken() -> None:
    rows = runs(("a", "tune", 1.0, 10, "diverged", 1.0), ("b", "tune", 0.1, 10, "diverged", 1.0))
    assert tuned_learning_rate(rows, "accuracy", 0) == 0.1


def test_only_tuning_runs_and_the_metric_asked_for_are_looked_at() -> None:
    rows = pd.concat(
        [
            tuning({0.1: [0.6], 1.0: [0.5]}),
            runs(("t", "test", 1.0, 10, "accuracy", 1.0), ("1.0-0", "tune", 1.0, 10, "test_accuracy", 1.0)),
        ]
    )
    assert tuned_learning_rate(rows, "accuracy", 0) == 0.1


def test_without_tuning_runs_there_is_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="results holds no tuning run"):
        tuned_learning_rate(runs(("t", "test", 1.0, 10, "accuracy", 1.0)), "accuracy", 0)


def test_the_lowest_loss_wins_where_less_is_better_and_a_diverged_run_never_does() -> None:
    rows = tuning({0.1: [2.0, 1.0], 1.0: [1.1, 1.3], 10.0: [0.1]}).replace("accuracy", "loss")
    assert tuned_learning_rate(rows, "loss", math.inf, lowest=True) == 10.0
    rows = pd.concat([rows, runs(("d", "tune", 10.0, 5, "diverged", 1.0))])
    assert tuned_learning_rate(rows, "loss", math.inf, lowest=True) == 1.0
