import numpy as np
import pandas as pd
import pytest
from tests.made_up.rows import facts as facts_of

from optrepro.analysis import benchmark
from optrepro.analysis.pop import transfer
from optrepro.analysis.results import Facts, StudyResults
from optrepro.exhibits import captions
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop import learning_rates, trajectories, vlse, vlse_cd, vlse_profiles

EXHIBITS = [vlse, vlse_cd, vlse_profiles, trajectories, learning_rates]
GROUP = {
    "rastrigin": "many local minima",
    "eggholder": "many local minima",
    "levy": "many local minima",
    "sphere": "bowl",
    "booth": "plate",
    "rosenbrock": "valley",
}
SKILL = {"adam": 0.5, "rprop": 1.0, "lbfgs": 2.0, "pop": 3.0, "tpe": 0.2}
OPTIMIZERS = {
    "adam": {"label": "Adam", "group": "first-order"},
    "rprop": {"label": "Rprop", "group": "first-order"},
    "lbfgs": {"label": "L-BFGS", "group": "quasi-newton"},
    "pop": {"label": "POP", "group": "policy"},
}
COLUMNS = ["workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]


def made_up(optimizers=tuple(SKILL)):
    random, rows = np.random.default_rng(0), []
    for function, group in GROUP.items():
        for key in optimizers:
            head = [f"vlse/{function}", key, "test", 0.1]
            facts = {"range": 9.0, "dimension": 2, "smooth": function != "eggholder", f"group[{group}]": 1}
            rows += [[*head, 0, 0, metric, float(value)] for metric, value in facts.items()]
            rows += [[*head, 0, t, f"x{k}", random.uniform(-1, 1)] for t in (1, 2, 3, 4) for k in (0, 1)]
            for prefix in ("vlse", "vlse-each") if key in ("adam", "rprop", "lbfgs") else ("vlse",):
                for start in range(6):
                    regrets = 10 ** -np.cumsum(SKILL[key] * random.uniform(0, 1, 3))
                    workload = f"{prefix}/{function}"
                    rows += [
                        [workload, key, "test", 0.1, start, t, "regret", r]
                        for t, r in zip((1, 5, 10), regrets, strict=True)
                    ]
                if prefix == "vlse-each":
                    rows += [[f"{prefix}/{function}", key, "tune", r, 0, 10, "tuning_score", r] for r in (0.1, 0.2)]
        if "pop" in optimizers:
            quantiles = (("rate_lower", -3.0), ("rate_median", -2.0), ("rate_upper", -1.0))
            rows += [[f"vlse/{function}", "pop", "test", 0.1, 0, t, m, v / t] for t in (1, 10) for m, v in quantiles]
    rows += [["prior-validation", "adam", "tune", r, 0, 10, "tuning_score", r] for r in (0.1, 0.2)]
    settings = {
        "kind": "transfer",
        "functions": list(GROUP),
        "budget": 10,
        "optimizers": OPTIMIZERS,
        "references": {"tpe": {"label": "TPE", "method": "tpe"}},
        "learning_rates": [0.1, 0.2],
    }
    runs = pd.DataFrame(rows, columns=COLUMNS).assign(run="r", study="pop")
    return StudyResults(runs, facts_of("pop", "smoke", settings, None, (), 0, ()))


def surfaces():
    rows = []
    for function in ("sphere", "rastrigin", "rosenbrock"):
        facts = {"lower[0]": -1.0, "upper[0]": 1.0, "lower[1]": -1.0, "upper[1]": 1.0, "smooth": 1.0}
        rows += [[function, 0, 0, metric, value] for metric, value in facts.items()]
        rows += [[function, 0, step, "surface", float((step - 40) ** 2)] for step in range(81)]
        rows += [[function, 0, 0, f"minimizer[{k}]", 0.0] for k in (0, 1)]
    runs = pd.DataFrame(rows, columns=["workload", "seed", "step", "metric", "value"])
    settings = {"functions": ["sphere", "rastrigin", "rosenbrock"]}
    return benchmark.surfaces(StudyResults(runs, Facts("vlse-surfaces", "smoke", settings, None, (), 0, ())))


def made_material(study):
    tables = {
        "pop-vlse-scores": transfer.scores(study),
        "pop-vlse-summary": transfer.summary(study),
        "pop-vlse-ranks": transfer.ranks(study),
        "pop-vlse-tests": transfer.tests(study),
        "pop-vlse-profile": transfer.profile(study),
        "pop-trajectories": transfer.trajectories(study),
        "pop-learning-rates": transfer.rates(study),
        "vlse-surfaces": surfaces(),
    }
    return Material(tables, {"pop": study.facts})


@pytest.fixture(scope="module")
def material():
    return made_material(made_up())


@pytest.mark.parametrize("optimizers", [("adam", "rprop", "lbfgs", "tpe"), ("adam", "pop"), ("pop",)])
def test_partial_results_are_drawn_for_what_they_are(optimizers):
    material = made_material(made_up(optimizers))
    for exhibit in EXHIBITS:
        exhibit.figure(material).draw_without_rendering()
        assert not exhibit.table(material).isna().any(axis=None)


def test_policies_come_first_and_references_last(material):
    table = vlse.table(material)
    assert list(table.columns[5:]) == ["POP", "Adam", "Rprop", "L-BFGS", "TPE"]


def test_the_table_has_both_measures_of_every_function_for_both_ways_of_tuning(material):
    rows = vlse.table(material).query("group != 'summary'")
    assert len(rows) == len(GROUP) * 2 * 2
    each = rows[rows.baselines == "baselines tuned for each function"]
    assert set(each.POP) == set(each.TPE) == {"–"}
    assert list(rows.function[:2]) == ["rastrigin", "rastrigin"]
    assert "eggholder †" in set(rows.function)


def test_the_policys_wins_are_in_the_summary(material):
    rows = vlse.table(material).query("measure == 'wins/ties/losses of the policy'")
    own = material.tables["pop-vlse-summary"].query("tuned == 'once' and subset == 'smooth' and optimizer == 'adam'")
    assert rows.Adam.iloc[0] == f"{own.wins.iloc[0]:.0f}/{own.ties.iloc[0]:.0f}/{own.losses.iloc[0]:.0f}"
    assert set(rows.POP) == {"–"}


def test_the_summaries_come_first_and_say_who_is_ahead(material):
    improvement, rank, wins, *_ = (axes.get_title(loc="left") for axes in vlse.figure(material).axes)
    assert (improvement, rank) == ("POP improves most", "POP ranks first")
    assert wins == "POP wins\nagainst 4 of 4"


def test_the_rank_table_names_those_that_an_optimizer_is_not_told_apart_from(material):
    table = vlse_cd.table(material)
    assert len(table) == len(material.tables["pop-vlse-ranks"]) == 2 * 2 * 4
    # six functions are too few for Holm's correction over six pairs
    assert table["not different from (Holm, 5 %)"].iloc[0] == "Rprop, L-BFGS, POP"


def test_policies_stand_out_in_the_rank_diagram(material):
    axes = vlse_cd.figure(material).axes[0]
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert len(bold) == 1
    assert "POP" in bold[0]


def test_profiles_have_a_panel_for_each_group_and_target(material):
    figure = vlse_profiles.figure(material)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert (
        titles
        == [
            "many local minima (2 functions)",
            "bowl (1 function)",
            "plate (1 function)",
            "valley (1 function)",
        ]
        * 2
    )


def test_trajectories_show_the_typical_functions_that_have_surfaces(material):
    figure = trajectories.figure(material)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == ["sphere", "rosenbrock", "rastrigin"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["start", "Rprop", "POP", "minimizer", "low value", "high value"]
    paths, own = material.tables["pop-trajectories"], figure.axes[0].lines
    best = paths[(paths.function == "sphere") & (paths.optimizer == "pop") & paths.best].step.iloc[0]
    assert best in [len(line.get_xdata()) for line in own]  # up to the best point alone


def test_learning_rates_are_tabled_as_lengths(material):
    table = learning_rates.table(material)
    assert len(table) == len(GROUP)
    assert table["evaluation 1"].iloc[0] == "0.01 [0.001, 0.1]"


def test_the_caption_says_that_rates_are_tuned_once_on_the_prior(material):
    assert "tuned once, over 2 values on the prior's validation functions" in captions.caption("", material)
