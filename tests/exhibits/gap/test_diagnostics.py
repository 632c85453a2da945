"""The exhibits of the gradient diagnostics, drawn from a made-up study through the catalogue."""

import pytest
from tests.exhibits import drawing

from optrepro.exhibits import captions
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material

EXHIBITS = ["gap-stationarity", "gap-stability", "gap-selection"]


@pytest.fixture(scope="module")
def materials(diagnostics_study):
    study = diagnostics_study(noise=0.05, fall=0.97)
    return {exhibit: drawing.material(exhibit, {study.facts.study: study}) for exhibit in EXHIBITS}


@pytest.fixture(scope="module")
def figures(materials):
    figures = {exhibit: drawing.module(exhibit).figure(material) for exhibit, material in materials.items()}
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_table_has_no_holes_and_the_caption_says_scale_and_seeds(exhibit, materials):
    drawing.assert_is_whole(drawing.module(exhibit).table(materials[exhibit]))
    caption = captions.caption(drawing.CATALOGUE.exhibits[exhibit].caption, materials[exhibit])
    assert "Scale: laptop." in caption
    assert "3 seeds on each workload." in caption


@pytest.mark.parametrize("exhibit", ["gap-stationarity", "gap-selection"])
def test_every_workload_is_named_in_figure_and_table(exhibit, materials, figures):
    names = {"Perceptron", "GPT, LoRA"}
    assert names <= set(drawing.shown(figures[exhibit]))
    assert set(drawing.module(exhibit).table(materials[exhibit]).workload) == names


def test_a_constant_choice_is_stated_in_figure_and_table(materials, figures):
    table = drawing.module("gap-selection").table(materials["gap-selection"])
    said = table.set_index(["workload", "rule", "tensor"]).constant
    assert said["GPT, LoRA", "paper", "all tensors"] == "always 0.5"
    assert said["Perceptron", "raw, per tensor", "out.weight"] == "always 0.99"
    assert drawing.shown(figures["gap-selection"]).count("always 0.5") == 2


def test_no_pair_of_statistics_is_above_the_bound(materials):
    assert set(drawing.module("gap-stability").table(materials["gap-stability"])["above the bound"]) == {"none"}


def test_the_bars_of_stability_hold_all_pairs_and_the_title_the_largest_loss(materials, figures):
    points = materials["gap-stability"].tables["gap-perturbations"].query("score == 'paper'")
    first = figures["gap-stability"].axes[0]
    assert [patch.get_data().values.sum() for patch in first.patches] == pytest.approx([100, 100])
    assert f"at most {100 * (points.loss / points.bound).max():.1f} % of the bound" in first.get_title("left")


def test_the_change_in_short_windows_is_in_the_table_or_said_not_to_be_resolved(diagnostics_study):
    study = diagnostics_study(fall=0.97, signal=0.0, noise=0.05)
    table = drawing.module("gap-stationarity").table(drawing.material("gap-stationarity", {study.facts.study: study}))
    row = table[table.tensor == "all tensors"].iloc[0]
    assert row["R without R_0 changes at the shortest distance by"] == "not resolved in 10 steps"
    change, _, steps = row["R changes at the shortest distance by"].partition(" in ")
    assert 0 < float(change) < 0.2
    assert steps == "10 steps"


def test_the_title_counts_on_how_many_workloads_the_autocorrelation_outlasts_the_largest_memory(materials):
    whole = materials["gap-stationarity"]
    half = whole.tables["gap-half-distances"].copy()
    half["distance"] = half.part.map({"R": 120.0, "memory": 30.0})
    half.loc[half.index[0], "distance"] = 99.0  # R of the first workload
    assert half.part.iloc[0] == "R"
    figure = drawing.module("gap-stationarity").figure(
        Material({**whole.tables, "gap-half-distances": half}, whole.facts)
    )
    assert "R outlasts the memory of 0.99 on 1 of 2 workloads, without R₀ on 0 of 2" in drawing.shown(figure)
    assert {"120", "99"} <= set(drawing.shown(figure))


def test_a_half_reached_within_the_first_distance_is_an_upper_bound(diagnostics_study):
    steps = drawing.module("gap-stationarity").distance_in_words
    assert [steps(d, 20) for d in (20, 47.2, float("inf"))] == ["at most 20", "47", "not in the training"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight", "h.0.attn.c_attn A"),
        ("all", "all tensors"),
        ("4.bias", "4.bias"),
    ],
)
def test_tensors_are_named_without_the_wrappers_of_adapters(name, short):
    assert workloads.tensor(name) == short
