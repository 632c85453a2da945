import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from optrepro import provenance, runtable
from optrepro.analysis.results import read_study
from optrepro.config import Config
from optrepro.experiments import collect
from optrepro.experiments.base import tidy
from optrepro.experiments.base.context import empty_results
from optrepro.runtable import MissingRunsError
from optrepro.studies.base import Batch

Tiny = Callable[..., Config]


def written(batch: Batch, folder: Path) -> Path:
    """A metrics file with one row for each run of a batch."""
    rows = [
        [run.id, run.study, run.workload, run.optimizer, run.role, 0.1, run.repetition, 10, "test_loss", 0.5]
        for run in batch.runs
    ]
    path = folder / batch.name / "metrics.parquet"
    tidy.write(pd.DataFrame(rows, columns=empty_results().columns), path)
    return path


@pytest.fixture
def metrics(tiny: Tiny, tmp_path: Path) -> list[Path]:
    """Files of all batches of the study of images."""
    return [written(batch, tmp_path / "runs") for batch in runtable.batches(tiny(), "images")]


def test_all_batches_become_one_table_in_their_order(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tidy" / "images.parquet"
    collect.collect(tiny(), "images", metrics, out)
    expected = [run.id for batch in runtable.batches(tiny(), "images") for run in batch.runs]
    assert pd.read_parquet(out).run.tolist() == expected


def test_the_facts_describe_the_study(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "images.parquet"
    collect.collect(tiny(), "images", metrics, out)
    facts = read_study(out).facts
    assert (facts.study, facts.scale) == ("images", "tiny")
    assert (facts.expected_runs, facts.missing) == (21, ())
    assert facts.settings == json.loads(tiny().studies["images"].model_dump_json(by_alias=True))
    assert facts.dataset == "scikit-learn digits (64 of 1,437 training and 360 of 360 test images)"
    [record] = facts.data
    assert record["file"].endswith("digits.csv.gz")
    assert record["official"] is True


@pytest.mark.parametrize(
    ("study", "criterion", "data"),
    [
        ("language", "loss", "the Python standard library's source (64 training and 8 test examples of 16 tokens)"),
        ("vision", "accuracy", "scikit-learn digits"),
    ],
)
def test_the_facts_of_a_fine_tuning_say_what_rates_are_tuned_by(
    study: str, criterion: str, data: str, tiny_gap: Tiny, tmp_path: Path
) -> None:
    settings, out = tiny_gap(), tmp_path / "tidy.parquet"
    collect.collect(settings, study, [written(b, tmp_path) for b in runtable.batches(settings, study)], out)
    facts = read_study(out).facts
    assert facts.criterion == criterion
    assert str(facts.dataset).startswith(data)
    assert facts.data


@pytest.mark.parametrize("study", ["pretraining", "diagnostics"])
def test_the_facts_of_a_study_with_several_tasks_name_the_data_of_each(
    study: str, tiny_gap: Tiny, tmp_path: Path
) -> None:
    settings, out = tiny_gap(), tmp_path / "tidy.parquet"
    collect.collect(settings, study, [written(b, tmp_path) for b in runtable.batches(settings, study)], out)
    facts = read_study(out).facts
    text = "the Python language reference" if study == "pretraining" else "the Python standard library's source"
    images = "vit" if study == "pretraining" else "softmax"
    assert facts.datasets == {"gpt": text, images: "scikit-learn digits"}
    assert len(facts.data) >= 2


def test_the_facts_of_a_study_with_several_data_sets_name_that_of_each_workload(
    tiny_lto: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = tiny_lto()
    files = [written(batch, tmp_path / "runs") for batch in runtable.batches(settings, "compare")]
    collect.collect(settings, "compare", files, tmp_path / "compare.parquet")
    facts = read_study(tmp_path / "compare.parquet").facts
    assert facts.dataset == "scikit-learn digits (at most 48 random training images in a run)"
    assert facts.datasets == dict.fromkeys(("tuning", "small", "wide"), "scikit-learn digits")
    assert [record["file"].rpartition("/")[2] for record in facts.data] == ["digits.csv.gz"]


def test_missing_runs_are_counted_by_id(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "images.parquet"
    batches = runtable.batches(tiny(), "images")
    collect.collect(tiny(), "images", metrics[1:], out)
    facts = read_study(out).facts
    assert facts.expected_runs == 21
    assert list(facts.missing) == [run.id for run in batches[0].runs]


def test_in_a_strict_scale_missing_runs_are_refused(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "images.parquet"
    with pytest.raises(MissingRunsError, match="images: 7 of 21 runs left no result, such as "):
        collect.collect(tiny("strict=true"), "images", metrics[1:], out)
    assert not out.exists()


def test_in_a_strict_scale_a_whole_study_is_gathered(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    collect.collect(tiny("strict=true"), "images", metrics, tmp_path / "images.parquet")
    assert read_study(tmp_path / "images.parquet").facts.missing == ()


def test_a_diverged_run_is_not_missing(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    table = pd.read_parquet(metrics[0])
    tidy.write(table.assign(metric="diverged", value=1.0), metrics[0])
    collect.collect(tiny("strict=true"), "images", metrics, tmp_path / "images.parquet")
    assert read_study(tmp_path / "images.parquet").facts.missing == ()


def test_a_study_without_run_table_and_data_says_so(tiny: Tiny, tmp_path: Path) -> None:
    row = [["-", "surfaces", "sphere", "none", "test", 0.1, 0, 0, "surface", 0.5]]
    tidy.write(pd.DataFrame(row, columns=empty_results().columns), tmp_path / "metrics.parquet")
    collect.collect(tiny(), "surfaces", [tmp_path / "metrics.parquet"], tmp_path / "surfaces.parquet")
    facts = read_study(tmp_path / "surfaces.parquet").facts
    assert (facts.dataset, facts.data, facts.expected_runs, facts.missing) == (None, (), 0, ())


def test_gathering_twice_gives_the_same_bytes(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    names = ("images.parquet", "images.json", "images.sidecar.json")
    contents = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        collect.collect(tiny(), "images", metrics, folder / "images.parquet")
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_the_sidecar_ties_the_table_and_the_facts_to_the_runs(tiny: Tiny, metrics: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tidy" / "images.parquet"
    collect.collect(tiny(), "images", metrics, out)
    sidecar = out.with_suffix(".sidecar.json")
    assert provenance.check_sidecar(sidecar) == {}
    out.with_suffix(".json").write_text("edited")
    metrics[0].write_bytes(b"edited")
    assert sorted(provenance.check_sidecar(sidecar).values()) == ["altered", "stale"]
