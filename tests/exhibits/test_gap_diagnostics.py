"""The exhibits of the gradient diagnostics, drawn from a made-up study through the catalogue."""

import importlib
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from optrepro import catalogue
from optrepro.exhibits import style, workloads
from optrepro.exhibits.material import Material

CATALOGUE = catalogue.load(Path(__file__).parents[2] / "config")
EXHIBITS = ["gap-stationarity", "gap-stability", "gap-selection"]


@pytest.fixture(scope="module")
def materials(diagnostics_study):
    study = diagnostics_study(noise=0.05, fall=0.97)

    def table(name):
        module, _, function = CATALOGUE.tables[name].function.rpartition(".")
        return getattr(importlib.import_module(module), function)(study)

    facts = {study.facts.study: study.facts}
    return {
        exhibit: Material({name: table(name) for name in CATALOGUE.exhibits[exhibit].tables}, facts)
        for exhibit in EXHIBITS
    }


@pytest.fixture(scope="module")
def figures(materials):
    figures = {exhibit: _module(exhibit).figure(material) for exhibit, material in materials.items()}
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


def _module(exhibit):
    return importlib.import_module(CATALOGUE.exhibits[exhibit].module)


def _shown(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_figure_fits_the_page_and_nothing_sticks_out(exhibit, figures):
    page, drawn = figures[exhibit].bbox_inches, figures[exhibit].get_tightbbox()
    assert page.width * 25.4 == pytest.approx(style.PAGE_WIDTH)
    assert page.height * 25.4 < 297
    assert page.x0 - 0.01 <= drawn.x0 < drawn.x1 <= page.x1 + 0.01
    assert page.y0 - 0.01 <= drawn.y0 < drawn.y1 <= page.y1 + 0.01


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_axes_with_ticks_are_labelled(exhibit, figures):
    for axes in figures[exhibit].findobj(Axes):
        assert axes.get_xlabel() or not axes.axison


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_table_has_no_holes_and_the_caption_says_scale_and_seeds(exhibit, materials):
    table = _module(exhibit).table(materials[exhibit])
    assert len(table) > 0
    assert not table.astype(str).isin(["nan", "None"]).any().any()
    caption = style.caption(CATALOGUE.exhibits[exhibit].caption, materials[exhibit])
    assert "Scale: laptop." in caption
    assert "2 seeds on each workload." in caption


@pytest.mark.parametrize("exhibit", ["gap-stationarity", "gap-selection"])
def test_every_workload_is_named_in_figure_and_table(exhibit, materials, figures):
    names = {"Perceptron", "GPT, LoRA"}
    assert names <= set(_shown(figures[exhibit]))
    assert set(_module(exhibit).table(materials[exhibit]).workload) == names


def test_a_constant_choice_is_stated_in_figure_and_table(materials, figures):
    table = _module("gap-selection").table(materials["gap-selection"])
    said = table.set_index(["workload", "rule", "tensor"]).constant
    assert said["GPT, LoRA", "paper", "all tensors"] == "always 0.5"
    assert said["Perceptron", "raw, per tensor", "out.weight"] == "always 0.99"
    assert _shown(figures["gap-selection"]).count("always 0.5") == 2


def test_no_pair_of_statistics_is_above_the_bound(materials):
    assert set(_module("gap-stability").table(materials["gap-stability"])["above the bound"]) == {"none"}


def test_a_half_reached_within_the_first_distance_is_an_upper_bound(diagnostics_study):
    steps = _module("gap-stationarity").distance_in_words
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
