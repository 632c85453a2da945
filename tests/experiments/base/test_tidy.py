from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from optrepro.experiments.base import tidy
from optrepro.studies.base import Run

ROW = ["0123456789", "images", "digits/softmax", "sgd", "test", 0.1, 3, 100, "test_loss", 0.25]
NAMES = [
    "run",
    "study",
    "workload",
    "optimizer",
    "role",
    "learning_rate",
    "seed",
    "step",
    "metric",
    "value",
]  # the contract with the analysis


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame([ROW, [*ROW[:-2], "train_loss", np.inf], [*ROW[:-1], np.nan]], columns=NAMES)


def test_what_is_written_is_read_back(table: pd.DataFrame, tmp_path: Path) -> None:
    tidy.write(table, tmp_path / "folder" / "metrics.parquet")
    back = tidy.read([tmp_path / "folder" / "metrics.parquet"])
    pd.testing.assert_frame_equal(back, table.astype(tidy.COLUMNS))


def test_columns_have_their_order_and_types_whatever_those_of_the_table(table: pd.DataFrame, tmp_path: Path) -> None:
    tidy.write(table[NAMES[::-1]].astype({"seed": float, "step": object}), tmp_path / "metrics.parquet")
    back = pd.read_parquet(tmp_path / "metrics.parquet")
    assert list(back.columns) == NAMES
    assert {name: str(back[name].dtype) for name in ("learning_rate", "seed", "step", "value")} == {
        "learning_rate": "float64",
        "seed": "int32",
        "step": "int32",
        "value": "float64",
    }


def test_equal_tables_are_equal_bytes(table: pd.DataFrame, tmp_path: Path) -> None:
    tidy.write(table, tmp_path / "a.parquet")
    tidy.write(table.copy().set_index(pd.Index([5, 6, 7])), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_rows_keep_their_order_within_and_across_files(table: pd.DataFrame, tmp_path: Path) -> None:
    for name, part in (("b", table[::-1]), ("a", table)):
        tidy.write(part, tmp_path / f"{name}.parquet")
    back = tidy.read([tmp_path / "b.parquet", tmp_path / "a.parquet"])
    assert list(back.metric) == [*table.metric[::-1], *table.metric]
    assert list(back.index) == list(range(6))


@pytest.mark.parametrize("change", [{"drop": "seed"}, {"add": "setting"}])
def test_a_missing_or_unknown_column_is_an_error_that_lists_them(
    change: dict[str, str], table: pd.DataFrame, tmp_path: Path
) -> None:
    wrong = table.drop(columns=change["drop"]) if "drop" in change else table.assign(**{change["add"]: 1})
    with pytest.raises(ValueError, match=r"a tidy table must have \['run', 'study'"):
        tidy.write(wrong, tmp_path / "metrics.parquet")
    assert not (tmp_path / "metrics.parquet").exists()


def test_stored_values_keep_four_digits():
    values = np.array([0.0, 1.0, -3.14159265, 1e-12, 7.7e300])
    np.testing.assert_allclose(tidy._rounded(values), values, rtol=1.3e-4)
    assert tidy._rounded(values)[:2].tolist() == [0, 1]


def test_joined_rows_are_those_of_each_part_in_their_order() -> None:
    runs = [Run("images", "digits", name, "test", None, 0, 0, {}) for name in ("sgd", "adam")]
    grid = tidy.metric_rows(runs[0], 0.1, "regret", np.ones((2, 3)), seed=np.arange(2)[:, None], step=[1, 5, 9])
    none = tidy.metric_rows(runs[0], 0.1, "diverged", np.ones(0), seed=np.arange(0), step=np.arange(0))
    one = tidy.metric_rows(runs[1], np.nan, "smooth", True)
    table = tidy.joined([grid, none, one])
    assert list(table.columns) == NAMES
    assert list(zip(table.seed, table.step, strict=True)) == [(0, 1), (0, 5), (0, 9), (1, 1), (1, 5), (1, 9), (0, 0)]
    assert list(table.optimizer) == ["sgd"] * 6 + ["adam"]
    assert list(table.metric) == ["regret"] * 6 + ["smooth"]
    assert list(table.learning_rate[:6]) == [0.1] * 6
    assert table.learning_rate.isna().sum() == 1
    assert tidy.joined([none]).empty
