import pandas as pd
import pytest

from optrepro.analysis.results import Facts, StudyResults
from optrepro.analysis.targets import COLUMNS, Measured, Measures, compare
from optrepro.settings import ConfigError


def study(name: str, missing: tuple[str, ...] = ()) -> StudyResults:
    return StudyResults(pd.DataFrame({"value": [0.8]}), Facts(name, "tiny", {}, None, (), 1, missing))


class Two(Measures):
    def share(self) -> Measured:
        return Measured(self._study("one").runs.value.iloc[0], "80 %")

    def chance(self) -> Measured:
        return Measured(float("nan"), "too few runs")


def verdict(target: dict, *studies: StudyResults, name: str = "share") -> pd.Series:
    return compare(Two(studies), {name: {"criterion": "share of all", **target}}).squeeze()


@pytest.mark.parametrize(
    ("bound", "value", "passes"),
    [
        ("at_least", 0.8, True),
        ("at_least", 0.9, False),
        ("at_most", 0.8, True),
        ("at_most", 0.7, False),
        ("above", 0.8, False),
        ("above", 0.7, True),
        ("below", 0.8, False),
        ("below", 0.9, True),
    ],
)
def test_a_value_passes_or_misses_by_its_bound(bound, value, passes):
    row = verdict({bound: value, "analysis": "the note"}, study("one"))
    assert list(row.index) == COLUMNS
    assert (row.verdict, row.analysis) == (("pass", "") if passes else ("miss", "the note"))
    assert (row.asked, row.measured) == (f"{bound.replace('_', ' ')} {value:g}", "80 %")


def test_what_has_no_results_or_misses_runs_is_neither_passed_nor_missed():
    assert tuple(verdict({"above": 0})[["verdict", "measured"]]) == ("not evaluated yet", "one has no results")
    partial = verdict({"above": 0}, study("one", ("a", "b")))
    assert tuple(partial[["verdict", "measured"]]) == ("not evaluated yet", "one lacks 2 runs")
    assert verdict({"above": 0}, name="chance").verdict == "not evaluated yet"


def test_a_miss_without_analysis_says_so_and_words_replace_the_bound():
    row = verdict({"above": 1, "asked": "all of it"}, study("one"))
    assert (row.asked, row.analysis) == ("all of it", "not analysed yet")


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        ({"above": 1, "below": 2}, "share", r"targets\.share: one of \['at_least'.*\] must be given, not 2"),
        ({}, "share", "must be given, not 0"),
        ({"above": "much"}, "share", r"targets\.share\.above: "),
        ({"above": 1}, "shape", r"targets\.shape is not one of \['chance', 'share'\]"),
    ],
)
def test_an_entry_that_cannot_be_is_an_error_that_names_it(target, name, message):
    with pytest.raises(ConfigError, match=message):
        verdict(target, study("one"), name=name)
