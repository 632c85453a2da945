import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optrepro.analysis.pop import prior
from optrepro.analysis.results import Facts, StudyResults

COLUMNS = ["workload", "metric", "seed", "step", "value"]


def study(rows):
    runs = pd.DataFrame(rows, columns=COLUMNS).assign(
        run="r", study="pop-prior", optimizer="none", role="test", learning_rate=0.0
    )
    return StudyResults(runs, Facts("pop-prior", "laptop", {}, None, (), 0, ()))


def described(**collections):
    """A study from values by collection (- for _) of the one statistic `minima`."""
    return study(
        [
            (f"statistics/{name.replace('_', '-')}", "minima", i, 0, value)
            for name, values in collections.items()
            for i, value in enumerate(values)
        ]
    )


@pytest.mark.parametrize("digits", [8, 1])
def test_distances_are_scipys_with_ties_and_without(digits):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40).round(digits), (0.5 + 2 * rng.normal(size=23)).round(digits)
    ks, wasserstein = prior.distance(a, b)
    assert ks == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert wasserstein == pytest.approx(stats.wasserstein_distance(a, b))


def test_a_shifted_collection_is_far_by_its_shift_in_units_of_the_interquartile_range():
    base = np.linspace(0, 4, 101)  # interquartile range 2
    table = prior.distances(described(prior=base, vlse=base, shift_far=base + 10)).set_index("collection")
    assert table.loc["vlse", ["ks", "wasserstein"]].tolist() == pytest.approx([0, 0])
    assert table.loc["shift-far", ["ks", "wasserstein"]].tolist() == pytest.approx([1, 5])
    assert table.loc["shift-far", ["median", "prior_median"]].tolist() == pytest.approx([12, 2])
    assert table.functions.tolist() == [101, 101]
    assert list(table.index) == ["vlse", "shift-far"]


def test_chance_is_what_scipys_test_calls_significant_at_five_percent():
    rng = np.random.default_rng(1)
    null, _ = prior.permuted_distances(rng.normal(size=60), rng.normal(size=60))
    level = np.quantile(null, 0.95)
    assert stats.kstwo.sf(level, 30) == pytest.approx(0.05, abs=0.025)


def test_samples_of_one_distribution_are_mostly_within_chance_and_others_are_not():
    rng = np.random.default_rng(2)
    same = prior.distances(described(prior=rng.normal(size=80), **{f"c_{i}": rng.normal(size=40) for i in range(20)}))
    assert (same.ks <= same.ks_chance).sum() >= 16
    assert (same.wasserstein <= same.wasserstein_chance).sum() >= 16
    other = prior.distances(described(prior=rng.normal(size=80), vlse=2 + rng.normal(size=40)))
    assert (other.ks > other.ks_chance).all()
    assert (other.wasserstein > other.wasserstein_chance).all()


def test_a_statistic_that_the_prior_does_not_vary_in_has_no_unit():
    table = prior.distances(described(prior=[1.0] * 9, vlse=[1.0, 2.0]))
    assert table.wasserstein.isna().all()
    assert table.ks.tolist() == [0.5]


def test_match_keeps_every_value_with_its_collection_and_function():
    table = prior.match(described(prior=[1.0, 2.0], shift_plateaus=[3.0]))
    assert table.to_dict("list") == {
        "collection": ["prior", "prior", "shift-plateaus"],
        "function": [0, 1, 0],
        "statistic": ["minima"] * 3,
        "value": [1.0, 2.0, 3.0],
    }


def test_the_gallery_lists_surfaces_by_family_on_the_unit_box():
    rows = []
    for number, kind in ((0, 2), (1, 0), (10, 0)):
        rows += [(f"gallery/{number}", "surface", i, j, 10 * i + j) for i in range(3) for j in range(3)]
        rows += [(f"gallery/{number}", name, 0, 0, x) for name, x in (("kind", kind), ("x0", 0.3), ("x1", 0.7))]
    table = prior.gallery(study(rows))
    assert list(table.function.unique()) == [1, 10, 0]
    assert list(table.drop_duplicates("function").family) == ["convex", "convex", "sum"]
    grid = table[(table.function == 0) & (table.kind == "grid")]
    assert grid.value.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert (grid.x0.tolist()[:3], grid.x1.tolist()[::3]) == ([0, 0.5, 1], [0, 0.5, 1])
    minimizer = table[(table.function == 0) & (table.kind == "minimizer")]
    assert minimizer[["x0", "x1"]].to_numpy().tolist() == [[0.3, 0.7]]


def test_sets_count_the_functions_of_each_family_with_their_range():
    rows = []
    for i, kind in enumerate((0, 0, 0, 1)):
        facts = {"kind": kind, "minimum": -1, "maximum": i, "start0": 0.5}
        rows += [("validation", name, i, 0, value) for name, value in facts.items()]
    table = prior.sets(study(rows))
    assert table.to_dict("list") == {
        "set": ["validation", "validation"],
        "family": ["convex", "gp"],
        "functions": [3, 1],
        "share": [0.75, 0.25],
        "range": [2.0, 4.0],
    }
