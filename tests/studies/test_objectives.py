from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import runtable
from optrepro.config import Config
from optrepro.studies.base import data_of, datasets_of
from tests.studies.runs import rows

Tiny = Callable[..., Config]


@pytest.fixture
def only_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in which no other data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("only_digits")
def test_an_optimizer_is_one_job_tuned_first_and_a_learned_one_is_not_tuned(tiny_lto: Tiny) -> None:
    batches = {batch.name: batch for batch in runtable.batches(tiny_lto(), "compare")}
    assert list(batches) == ["adagrad", "adam", "learned"]
    tests = [(panel, "test", None, i) for panel in ("small", "wide") for i in range(3)]
    tuning = [("tuning", "tune", rate, i) for rate in (0.01, 0.1) for i in range(2)]

    def made(name: str) -> list[tuple[str, str, float | None, int]]:
        return [(run.workload, run.role, run.learning_rate, run.repetition) for run in batches[name].runs]

    assert made("adam") == made("adagrad") == [*tuning, *tests]
    assert made("learned") == tests


ALL_RULES = {(name, panel) for name in ("adagrad", "adam", "learned") for panel in ("tuning", "small", "wide")}
TUNED = {(name, panel) for name, panel in ALL_RULES if name != "learned"}
COMPARE = {
    "studies.compare.examples=32": ALL_RULES,
    "studies.compare.evaluations=6": ALL_RULES,
    "studies.compare.tuning_repetitions=3": TUNED,
    "studies.compare.tuning.steps=9": TUNED,
    "studies.compare.learning_rates=[0.01, 0.2]": TUNED,
    "studies.compare.panels.wide.hidden=13": {(name, "wide") for name, _ in ALL_RULES},
    "studies.compare.panels.wide=null": set(),
    "studies.compare.panels.new={dataset: [digits], inputs: 6, hidden: 4, batch_size: 8, steps: 8}": set(),
    "studies.compare.repetitions=2": set(),
    "studies.compare.gpu=true": set(),
    "studies.compare.optimizers.adam=null": set(),
    "studies.compare.optimizers.adam.label=other": set(),
    "studies.compare.optimizers.adam.settings.eps=0.1": {pair for pair in ALL_RULES if pair[0] == "adam"},
    "studies.learn.unrolled.iterations=6": {pair for pair in ALL_RULES if pair[0] == "learned"},
    "studies.learn.mirror.iterations=6": set(),
    "studies.compare.panels.wide.dataset=[digits]": set(),
}


@pytest.mark.usefixtures("only_digits")
@pytest.mark.parametrize(("override", "changed"), COMPARE.items(), ids=COMPARE)
def test_a_run_on_a_panel_gets_a_new_id_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[tuple[str, str]], tiny_lto: Tiny
) -> None:
    before = {run.id for run in rows(tiny_lto(), study="compare")}
    panels = tiny_lto().studies["compare"].workloads
    for run in rows(tiny_lto(override), study="compare"):
        if run.workload in panels:
            assert (run.id in before) is ((run.optimizer, run.workload) not in changed), run


@pytest.mark.usefixtures("only_digits")
def test_comparisons_of_step_rules_are_paired_and_never_test_on_what_was_tuned_on(tiny_lto: Tiny) -> None:
    settings = tiny_lto("studies.compare.tuning_repetitions=20", "studies.compare.repetitions=20")
    runs = rows(settings, study="compare")
    seeds = {(run.workload, run.repetition): run.seed for run in runs}
    assert all(run.seed == seeds[run.workload, run.repetition] for run in runs)
    assert len(set(seeds.values())) == len(seeds) == 3 * 20


@pytest.mark.usefixtures("only_digits")
def test_studies_that_compare_step_rules_tune_on_the_same_seeds_and_test_on_others(tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    other = settings.model_copy(update={"studies": {**settings.studies, "again": settings.studies["compare"]}})
    seeds = {
        (study, role): {run.seed for run in rows(other, study=study, role=role)}
        for study in ("compare", "again")
        for role in ("tune", "test")
    }
    assert seeds["compare", "tune"] == seeds["again", "tune"]
    assert seeds["compare", "test"].isdisjoint(seeds["again", "test"])


def test_each_panel_takes_the_first_of_its_data_sets_that_is_at_hand(only_digits: None, tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    study = settings.studies["compare"]
    assert datasets_of(study, settings) == {"tuning": "digits", "small": "digits", "wide": "digits"}
    assert data_of(study, settings) == ["digits"]
    settings = tiny_lto("download=true")
    assert datasets_of(study, settings)["wide"] == "fashion-mnist"
    assert data_of(study, settings) == ["digits", "fashion-mnist"]


@pytest.mark.usefixtures("only_digits")
def test_a_run_on_a_panel_with_another_data_set_has_another_id(tiny_lto: Tiny) -> None:
    def runs(settings: Config) -> set[str]:
        return {run.id for run in rows(settings, study="compare", workload="wide")}

    assert runs(tiny_lto()).isdisjoint(runs(tiny_lto("download=true")))
