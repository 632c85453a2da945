import pytest
from pydantic import ValidationError

from optrepro.studies.halving import HalvingStudy


@pytest.fixture
def make(tiny_pop):
    """A function from changes of the keys to a study with them."""
    meta = tiny_pop().studies["meta"].model_dump(mode="json")
    fields = ("prior", "network", "validation_functions", "validate_every")
    given = {key: meta[key] for key in fields} | {"ppo": {**meta["ppo"], "iterations": 36}}

    def study(**changes):
        return HalvingStudy.model_validate(given | {"grid": {"ppo.entropy": [0.0, 0.1]}, "rungs": 2} | changes)

    return study


def test_candidates_are_all_combinations_and_change_nothing_else(make):
    study = make(grid={"ppo.entropy": [0.0, 0.1], "network.width": [8, 16]})
    entries = [study.trainings().entry(name) for name in study.candidates()]
    assert [(ppo.entropy, network.width) for _, network, ppo in entries] == [(0, 8), (0, 16), (0.1, 8), (0.1, 16)]
    assert {ppo.model_copy(update={"entropy": study.ppo.entropy}) == study.ppo for *_, ppo in entries} == {True}


@pytest.mark.parametrize(
    ("rungs", "every", "ends"), [(1, 1, [36]), (3, 1, [9, 18, 36]), (3, 4, [8, 16, 36]), (4, 4, [4, 8, 16, 36])]
)
def test_a_rung_is_twice_the_one_before_and_ends_with_a_validation(make, rungs, every, ends):
    assert make(rungs=rungs, validate_every=every).ends() == ends


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"ppo.speed": [1]}}, r"grid\.ppo\.speed is not one of \['network\.acting'"),
        ({"grid": {"prior.warp": [1]}}, r"grid\.prior\.warp is not one of"),
        ({"grid": {"ppo.entropy": []}}, r"grid\.ppo\.entropy = \[\] is not allowed"),
        ({"grid": {"ppo.entropy": [-1]}}, r"policies\.candidate-1\.ppo = {'entropy': -1} is not allowed: entropy"),
        ({"rungs": 7}, "rungs = 7 is not allowed: the first of them would end before the first validation"),
        ({"rungs": 2, "validate_every": 20}, "rungs = 2 is not allowed"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_key(make, changes, message):
    with pytest.raises(ValidationError, match=message):
        make(**changes)
