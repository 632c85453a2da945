import numpy as np
import pytest
import torch

from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.descent import fixed_sets, prior_portrait
from optrepro.problems.functions import shifted, vlse
from optrepro.problems.functions.landscape import describe
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import SyntheticPrior
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.prior import PriorStudy

SHARES = {"convex": 0.25, "gp": 0.35, "sum": 0.4}
PRIOR = PriorSettings(
    shares=SHARES,
    features=16,
    length_scale=(0.1, 1.0),
    anisotropy=3.0,
    condition=1e4,
    amplitude=(0.05, 2.0),
    warp=2.0,
)
STUDY = PriorStudy(
    prior=PRIOR,
    validation_functions=10,
    test_functions=20,
    described=3,
    functions=("sphere", "hartmann6", "forrester", "branin"),
    gallery=4,
    resolution=9,
)


def run(study=STUDY, seed=1, progress=lambda *_: None):
    batch = Batch("pop-prior", "all", None, (), (), "settings")
    return prior_portrait.run(study, batch, Context(seed, torch.device("cpu"), Checkpoint(None), progress=progress))


@pytest.fixture(scope="module")
def table():
    return run()


def values(table, workload, metric):
    rows = table[(table.workload == workload) & (table.metric == metric)]
    return rows.set_index("seed").value


@pytest.mark.parametrize(("name", "role", "count"), [("validation", "tune", 10), ("test", "test", 20)])
def test_the_fixed_sets_are_those_of_every_other_study(table, name, role, count):
    fixed = fixed_sets.fixed(PRIOR, 1, name, count, 2)
    assert set(table[table.workload == name].role) == {role}
    for metric, expected in (
        ("minimum", fixed.extrema.minimum),
        ("maximum", fixed.extrema.maximum),
        ("kind", fixed.functions.kind.double()),
        ("start0", fixed.start[:, 0]),
        ("start1", fixed.start[:, 1]),
    ):
        got = values(table, name, metric)
        assert list(got.index) == list(range(count))
        np.testing.assert_allclose(got, expected, rtol=1e-3)  # rows carry four digits


def test_the_gallery_is_the_first_test_functions_on_a_grid_with_their_minimizers(table):
    fixed = fixed_sets.fixed(PRIOR, 1, "test", 20, 2)
    names = [name for name in table.workload.unique() if name.startswith("gallery/")]
    assert names == [f"gallery/{i}" for i in range(4)]
    for i, name in enumerate(names):
        surface = table[(table.workload == name) & (table.metric == "surface")]
        assert len(surface) == 81
        u = torch.tensor(surface[["step", "seed"]].to_numpy() / 8)  # columns along the first coordinate
        np.testing.assert_allclose(surface.value, fixed.functions[i : i + 1].value(u[None])[0], rtol=1e-3, atol=1e-6)
        found = [values(table, name, metric).item() for metric in ("x0", "x1", "kind")]
        expected = [*fixed.extrema.minimizer[i].tolist(), fixed.functions.kind[i].item()]
        assert found == pytest.approx(expected, rel=1e-3)


def test_every_collection_is_described_function_by_function(table):
    described = table[table.workload.str.startswith("statistics/")]
    collections = ["prior", *(f"shift-{name}" for name in shifted.NAMES), "vlse"]
    assert list(described.workload.unique()) == [f"statistics/{name}" for name in collections]
    for name in collections[:-1]:
        assert list(values(table, f"statistics/{name}", "minima").index) == [0, 1, 2]
    seed = derive_seed(1, "prior", "statistics")
    sphere = describe(vlse.get("sphere"), seed, prior_portrait.POINTS)
    for metric, expected in sphere.items():
        assert values(table, "statistics/vlse", metric)[0] == pytest.approx(expected.item(), rel=1e-3, abs=1e-9)
    own = describe(SyntheticPrior(PRIOR).sample(seed, 3, 2), seed, prior_portrait.POINTS)
    np.testing.assert_allclose(values(table, "statistics/prior", "skewness"), own["skewness"], rtol=1e-3)


def test_benchmark_functions_of_too_many_variables_are_left_out_and_the_others_keep_their_place(table):
    assert list(values(table, "statistics/vlse", "minima").index) == [0, 2, 3]
    assert list(values(table, "statistics/vlse", "condition").index) == [0, 3]  # one variable has no condition number


def test_the_table_is_tidy_and_the_same_each_time(table, tmp_path):
    for name in ("first", "second"):
        tidy.write(table if name == "first" else run(), tmp_path / f"{name}.parquet")
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    assert table.value.notna().all()
    assert not table.duplicated(["workload", "metric", "seed", "step"]).any()


def test_another_root_seed_gives_other_functions(table):
    other = run(STUDY.model_copy(update={"described": 1, "functions": ("sphere",)}), seed=2)
    assert values(other, "test", "minimum")[0] != values(table, "test", "minimum")[0]
    assert values(other, "statistics/prior", "skewness")[0] != values(table, "statistics/prior", "skewness")[0]


def test_progress_is_reported_from_nothing_to_all():
    reports = []
    run(STUDY.model_copy(update={"described": 1}), progress=lambda done, total, what: reports.append((done, total)))
    total = reports[0][1]
    assert reports == [(done, total) for done in range(total + 1)]


def test_in_more_than_two_variables_no_surface_is_drawn():
    table = run(STUDY.model_copy(update={"dim": 3, "described": 1, "functions": ("hartmann3",)}))
    assert not table.workload.str.startswith("gallery").any()
    assert list(values(table, "test", "start2").index) == list(range(20))
    assert "statistics/vlse" in set(table.workload)
