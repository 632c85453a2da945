from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import runtable
from optrepro.config import Config
from optrepro.settings import ConfigError
from tests.studies.runs import ids, rows

Tiny = Callable[..., Config]
EVERY = {"unrolled", "longer", "imitation", "mirror", "bregman"}
LEARNERS = {
    "studies.learn.objective.steps=9": EVERY,
    "studies.learn.train_examples=512": EVERY,
    "studies.learn.validation_problems=4": EVERY,
    "studies.learn.unrolled.learning_rate=0.1": {"unrolled", "longer"},
    "studies.learn.unrolled.unroll=2": {"unrolled", "longer"},  # the second begins with the first one's weights
    "studies.learn.learners.longer.unrolled.unroll=2": {"longer"},
    "studies.learn.l2l.cells=4": {"unrolled", "longer"},
    "studies.learn.policy.cells=4": {"imitation", "mirror", "bregman"},
    "studies.learn.mirror.iterations=4": {"mirror"},
    "studies.learn.imitation.iterations=4": {"imitation", "mirror"},
    "studies.learn.learners.bregman.method=imitation": {"bregman"},
    "studies.learn.validate_every=3": EVERY,
    "studies.learn.validation={small: {inputs: 4, hidden: 4, batch_size: 2, steps: 8}}": EVERY,
    "studies.learn.averaging=0.9": EVERY,
    "studies.learn.objective.label_noise=0.5": EVERY,
    "studies.learn.learners.mirror.objective={batch_sizes: [2, 8]}": {"mirror"},
    "studies.learn.learners.bregman.policy={relative: true}": {"bregman"},
    "studies.learn.learners.bregman.validate_every=1": {"bregman"},
    "studies.learn.learners.bregman.label=other": set(),
    "studies.learn.learners.bregman.group=other": set(),
    "studies.learn.learners.bregman=null": set(),
    "studies.learn.gpu=true": set(),
    "studies.learn.dataset=[fashion-mnist, digits]": set(),
}


@pytest.fixture
def only_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in which no other data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("only_digits")
@pytest.mark.parametrize(("override", "changed"), LEARNERS.items(), ids=LEARNERS)
def test_a_learner_gets_new_ids_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[str], tiny_lto: Tiny
) -> None:
    before, after = tiny_lto(), tiny_lto(override)
    for batch in runtable.batches(after, "learn"):
        kept = set(ids(before, batch.name, "learn")) & {run.id for run in batch.runs}
        assert not kept if batch.name in changed else kept == {run.id for run in batch.runs}, batch.name


def test_a_learner_is_one_run_that_is_watched_and_all_share_a_seed(tiny_lto: Tiny) -> None:
    runs = rows(tiny_lto(), study="learn")
    assert [(run.optimizer, run.workload, run.role, run.repetition) for run in runs] == [
        (name, "meta-validation", "tune", 0) for name in ("unrolled", "longer", "imitation", "mirror", "bregman")
    ]
    assert len({run.seed for run in runs}) == 1


@pytest.mark.usefixtures("only_digits")
def test_weights_go_to_the_rows_that_begin_with_them_or_use_them(tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    given = {b.name: b.weights for study in ("learn", "compare") for b in runtable.batches(settings, study)}
    assert given["longer"] == given["learned"] == ("learn", "unrolled")
    assert given["mirror"] == ("learn", "imitation")
    assert {n for n, weights in given.items() if weights is None} == {*EVERY, "adagrad", "adam"} - {"longer", "mirror"}


def test_what_came_later_is_in_no_id_at_its_default(tiny_lto: Tiny) -> None:
    later = "learn.validation={}", "learn.averaging=0", "learn.policy.warmup=0", "learn.objective.batch_sizes=[]"
    settings = tiny_lto(*(f"studies.{each}" for each in later))
    for name in EVERY:
        assert ids(settings, name, "learn") == ids(tiny_lto(), name, "learn")


def test_batch_sizes_that_do_not_fill_a_batch_are_refused(tiny_lto: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"batch_sizes: \[3\] do not divide batch_size = 8"):
        tiny_lto("studies.learn.objective.batch_sizes=[2, 3]")
