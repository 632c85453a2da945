import pytest
import torch
from tests.exhibits import drawing

from optrepro import config, runtable
from optrepro.analysis import benchmark
from optrepro.analysis.results import Facts, StudyResults
from optrepro.exhibits.material import Material
from optrepro.exhibits.vlse import baselines, gallery
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.descent import benchmark as functions
from optrepro.experiments.descent import surfaces

NAMES = ["rastrigin", "cross_in_tray", "sphere", "hartmann3", "branin"]
STUDIES = {
    "vlse": {
        "kind": "functions",
        "functions": NAMES,
        "budget": 15,
        "tuning_starts": 1,
        "starts": 6,
        "learning_rates": [0.01, 0.1, 0.3],
        "optimizers": {
            "momentum": {"label": "momentum", "class": "torch.optim.SGD", "settings": {"momentum": 0.9}},
            "adam": {"label": "Adam", "class": "torch.optim.Adam"},
            "rprop": {"label": "Rprop", "class": "torch.optim.Rprop"},
            "my-own": {"label": "my own", "class": "torch.optim.NAdam"},
        },
    },
    "vlse-surfaces": {"kind": "surfaces", "functions": NAMES, "resolution": 9},
}
RUNS = {"vlse": functions.run, "vlse-surfaces": surfaces.run}


def study_results(folder, study_id):
    resolved = config.build([("test", {"scale": "smoke", "seed": 1, "studies": STUDIES})])
    study, context = resolved.studies[study_id], Context(1, torch.device("cpu"), Checkpoint(None))
    paths = []
    for batch in runtable.batches(resolved, study_id):
        paths.append(folder / f"{batch.study}-{batch.name}.parquet")
        tidy.write(RUNS[study_id](study, batch, context), paths[-1])
    settings = study.model_dump(mode="json", by_alias=True)
    return StudyResults(tidy.read(paths), Facts(study_id, "smoke", settings, None, (), 0, ()))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tidy")
    vlse, pictures = (study_results(folder, study_id) for study_id in STUDIES)
    names = ("scores", "ranks", "tests", "profile", "trajectories")
    tables = {f"vlse-{name}": getattr(benchmark, name)(vlse) for name in names}
    tables["vlse-surfaces"] = benchmark.surfaces(pictures)
    return Material(tables, {"vlse": vlse.facts, "vlse-surfaces": pictures.facts})


def test_the_table_has_both_measures_of_every_function_for_every_optimizer(material):
    table = baselines.table(material)
    functions_part = table[table.group != "summary"]
    assert list(functions_part.measure) == ["improvement", "regret"] * len(NAMES)
    assert list(functions_part.function[::2]) == ["rastrigin", "cross in tray †", "sphere", "hartmann3 (3-D)", "branin"]
    assert list(table.columns[4:]) == ["momentum", "Adam", "Rprop", "my own"]
    assert not table.isna().any(axis=None)


def test_the_table_sums_up_ranks_and_tests_for_both_sets_of_functions(material):
    table = baselines.table(material)
    ranks = table[table.function.str.startswith("average rank")]
    assert list(ranks.measure) == ["regret", "improvement"] * 2
    assert list(ranks.function.str.contains("4 smooth functions")) == [True, True, False, False]
    cells = ranks[["momentum", "Adam", "Rprop", "my own"]].astype(float)
    assert cells.sum(axis=1).tolist() == pytest.approx([1 + 2 + 3 + 4] * 4, abs=0.03)
    against = table[table.function.str.startswith("Wilcoxon's p (Holm)")]
    assert (against[["momentum", "Adam", "Rprop", "my own"]] == "–").sum(axis=1).tolist() == [1] * 4  # the best itself


def test_wins_are_those_of_the_other_optimizer_against_the_best(material):
    tests = material.tables["vlse-tests"]
    tests = tests[(tests.subset == "all") & (tests.measure == "regret")]
    pair = tests.iloc[0]
    first, second = pair["first"], pair["second"]
    assert baselines._versus(tests, second, first)[0] == f"{pair.wins}/{pair.ties}/{pair.losses}"
    assert baselines._versus(tests, first, second)[0] == f"{pair.losses}/{pair.ties}/{pair.wins}"


def test_an_optimizer_without_results_on_a_function_leaves_a_dash(material):
    scores = material.tables["vlse-scores"]
    partial = scores[(scores.function != "sphere") | (scores.optimizer != "adam")]
    partial = Material({**material.tables, "vlse-scores": partial}, material.facts)
    table = baselines.table(partial).set_index(["function", "measure"])
    assert table.loc[("sphere", "regret"), "Adam"] == "–"
    assert baselines.figure(partial).axes


def test_the_gallery_shows_the_functions_of_two_variables_with_paths_of_known_optimizers(material):
    figure = gallery.figure(material)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["rastrigin", "sphere", "branin"]  # those that tell most
    assert len(figure.axes[0].lines) == 1 + 2 * 2 + 1  # minimizers, two paths with their ends, the start
    table = gallery.table(material)
    assert list(table.function.unique()) == ["rastrigin", "cross in tray", "sphere", "branin"]
    assert list(table.optimizer.unique()) == ["momentum", "Rprop", "Adam"]
    assert len(table) == 4 * 3


def test_the_figure_has_one_diagram_of_ranks_and_names_the_best_of_it(material):
    figure = baselines.figure(material)
    ranks = material.tables["vlse-ranks"].query("subset == 'smooth' and measure == 'regret'")
    best = ranks.label.iloc[int(ranks["rank"].argmin())]
    titles = [text for text in drawing.shown(figure) if "ranks first" in text]
    assert titles == [f"{best} ranks first by regret, 4 smooth functions"]
