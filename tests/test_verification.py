import json
from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import evaluations, layout, provenance, verification
from optrepro.analysis.results import StudyResults
from optrepro.catalogue import Catalogue
from optrepro.config import ConfigError
from optrepro.evaluations import Evaluation
from optrepro.verification import Finding

MODULE = "optrepro.exhibits.style"
FACTS = json.dumps({"settings": {"kind": "surfaces", "functions": ["sphere"], "resolution": 8}, "missing": []})
CATALOGUE = Catalogue.model_validate(
    {
        "papers": {"gap": {"title": "GAP", "position": 1}},
        "tables": {"scores": {"function": "made_up.scores", "studies": ["images"]}},
        "exhibits": {
            "first": {"system": "gap", "title": "First", "module": MODULE, "tables": ["scores"], "caption": "One."}
        },
    }
)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one batch of runs, one tidy result and one exhibit at the scale tiny, all as it was written."""
    monkeypatch.chdir(tmp_path)
    metrics = written(layout.metrics("tiny", "images", "sgd"), "metrics")
    provenance.write_sidecar(metrics.with_name("run.json"), outputs=[metrics], inputs=[], attempts=1)
    tidy = written(layout.tidy("tiny", "images"), "tidy")
    facts = written(tidy.with_suffix(".json"), FACTS)
    provenance.write_sidecar(tidy.with_suffix(".sidecar.json"), outputs=[tidy, facts], inputs=[metrics])
    table = written(layout.table("tiny", "scores"), "table")
    figure = written(Path(f"{layout.exhibit('tiny', 'first')}.svg"), "figure")
    source = provenance.source_hash(MODULE, "optrepro.exhibits.render")
    provenance.write_sidecar(figure.with_suffix(".json"), outputs=[figure], inputs=[table, tidy], source=source)
    return tmp_path


def verdicts() -> dict[str, str]:
    return {finding.what: finding.verdict for finding in verification.verify("tiny", CATALOGUE)}


def test_what_is_as_it_was_written_is_ok(project: Path) -> None:
    assert verification.verify("tiny", CATALOGUE) == [Finding("first", "ok")]


@pytest.mark.parametrize(
    ("file", "verdict"),
    [
        ("figures/tiny/first.svg", {"first": "altered"}),
        ("results/tiny/tables/scores.parquet", {"first": "stale"}),
        ("results/tiny/tidy/images.parquet", {"first": "stale", "results/tiny/tidy/images.parquet": "altered"}),
        ("results/tiny/tidy/images.json", {"first": "ok", "results/tiny/tidy/images.json": "altered"}),
        (
            "results/tiny/runs/images/sgd/metrics.parquet",
            {
                "first": "ok",
                "results/tiny/runs/images/sgd/metrics.parquet": "altered",
                "results/tiny/tidy/../runs/images/sgd/metrics.parquet": "stale",
            },
        ),
    ],
)
def test_an_edited_file_is_found_with_all_that_was_made_from_it(
    file: str, verdict: dict[str, str], project: Path
) -> None:
    Path(file).write_text("edited")
    assert verdicts() == verdict


def test_a_deleted_figure_is_missing(project: Path) -> None:
    Path("figures/tiny/first.svg").unlink()
    assert verification.verify("tiny", CATALOGUE) == [Finding("first", "missing", "first.svg")]


def test_an_exhibit_that_was_never_drawn_is_missing(project: Path) -> None:
    Path("figures/tiny/first.json").unlink()
    assert verification.verify("tiny", CATALOGUE) == [Finding("first", "missing", "it has not been drawn")]


def test_an_exhibit_is_stale_when_its_code_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "source_hash", lambda *modules: "0123456789ab")
    assert verification.verify("tiny", CATALOGUE) == [Finding("first", "stale", "the code that draws it changed")]


def test_publishing_copies_tidy_results_and_keeps_what_their_runs_recorded(project: Path) -> None:
    paths = list(verification.publish("tiny"))
    assert paths == [Path("results/published/tidy/images.parquet"), Path("results/published/tidy/images.json")]
    assert [path.read_text() for path in paths] == ["tidy", FACTS]
    record = json.loads(Path("results/published/tidy/images.sidecar.json").read_text())
    assert record["runs"]["sgd"] == json.loads(Path("results/tiny/runs/images/sgd/run.json").read_text())


def test_published_results_stand_without_the_scale_they_came_from(project: Path) -> None:
    list(verification.publish("tiny"))
    Path("results/tiny/tidy/images.parquet").write_text("edited")
    empty = Catalogue(papers={}, tables={}, exhibits={})
    assert verification.verify(layout.PUBLISHED, empty) == []
    Path("results/published/tidy/images.parquet").write_text("edited")
    assert verification.verify(layout.PUBLISHED, empty) == [Finding("results/published/tidy/images.parquet", "altered")]


def test_results_on_collections_of_others_are_published_only_once_their_evaluation_is_on_record(
    project: Path, outside_study: Callable[..., StudyResults]
) -> None:
    settings = outside_study("pop-cutest").facts.settings
    tidy = written(layout.tidy("tiny", "pop-cutest"), "tidy")
    written(tidy.with_suffix(".json"), json.dumps({"settings": settings, "missing": []}))
    looked = Evaluation(
        study="pop-cutest", scale="tiny", weights={}, collections=settings["collections"], packages={}, commits=()
    )
    for each in ([], [looked], [looked.model_copy(update={"scale": "smoke", "complete": True})]):
        evaluations.write(each)
        with pytest.raises(ConfigError, match=r"no complete evaluation of pop-cutest at the scale tiny; run: optrepro"):
            list(verification.publish("tiny"))
        assert not layout.tidy(layout.PUBLISHED, "images").exists()
    evaluations.write([looked.model_copy(update={"complete": True})])
    assert len(list(verification.publish("tiny"))) == 4


def test_publishing_a_scale_without_results_is_an_error_that_names_the_folder(project: Path) -> None:
    with pytest.raises(FileNotFoundError, match="results/nowhere/tidy holds no tidy results"):
        list(verification.publish("nowhere"))


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (lambda: layout.metrics("tiny", "images", "sgd"), "results/tiny/runs/images/sgd/metrics.parquet"),
        (lambda: layout.tidy("tiny", "images"), "results/tiny/tidy/images.parquet"),
        (lambda: layout.table("tiny", "scores"), "results/tiny/tables/scores.parquet"),
        (lambda: layout.exhibit("tiny", "first"), "figures/tiny/first"),
        (lambda: layout.exhibit(layout.PUBLISHED, "first"), "figures/first"),
    ],
)
def test_everything_lies_where_the_readme_says(place: Callable[[], Path], path: str) -> None:
    assert place() == Path(path)


def test_checkpoints_lie_outside_the_results_that_snakemake_deletes() -> None:
    assert layout.state("0123456789").parts[0] == "state"
