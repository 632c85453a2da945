import dataclasses
import math
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

from optrepro import config
from optrepro.exhibits import captions, style
from optrepro.exhibits.material import Material
from tests.made_up.rows import complete

CONFIG = Path(__file__).parents[2] / "config"


def _luminance(color):
    red, green, blue = to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_optimizer_of_a_comparison_has_a_look_of_its_own():
    for name, study in config.load(CONFIG / "laptop.yaml").studies.items():
        if name.startswith(("gap-ablation", "gap-rules-tuning")):
            continue  # its rows are drawn in the look of the score or the rule that they vary
        looks = [style.look(key) for key in getattr(study, "optimizers", {})]
        assert len(set(looks)) == len(looks)


def test_a_new_optimizer_gets_the_same_look_in_every_process():
    assert style.look("added-by-config") == style.Look("#6699CC", "p", "-")


def test_fixed_candidates_darken_with_memory_so_that_no_hue_is_needed():
    levels = [_luminance(style.candidate_color(m)) for m in (0.5, 0.9, 0.99)]
    assert levels[0] > levels[1] + 0.1 > levels[2] + 0.2


def test_the_same_figure_is_the_same_bytes(tmp_path, training_study):
    def draw(stem):
        figure = style.page(Material({}, {"gap-sgdm": training_study().facts}), height=40)
        figure.subplots().plot([1, 2], [3, 4], label="a")
        figure.axes[0].legend()
        style.save(figure, tmp_path / stem / "figure")

    draw("first")
    draw("second")
    for suffix in (".svg", ".png"):
        first, second = ((tmp_path / stem / f"figure{suffix}").read_bytes() for stem in ("first", "second"))
        assert first == second
    assert b"<dc:date>" not in (tmp_path / "first" / "figure.svg").read_bytes()
    assert b"Software" not in (tmp_path / "first" / "figure.png").read_bytes()


def test_a_page_is_as_wide_as_the_paper_and_says_if_it_is_partial(training_study):
    whole = style.page(Material({}, {"a": training_study().facts}), height=50)
    assert whole.get_figwidth() * 25.4 == pytest.approx(180)
    assert whole.get_suptitle() == ""
    partial = style.page(Material({}, {"a": training_study(missing=("raw/test/0.03/1",)).facts}), height=50)
    assert partial.get_suptitle().startswith("PARTIAL: 1 of ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (style.percent(0.85123), "85.1"),
        (style.percent(math.nan), "–"),
        (style.number(0.00123456), "0.00123"),
        (style.interval(0.85, 0.84, 0.86, 2), "0.85 [0.84, 0.86]"),
        (style.interval(0.85, math.nan, math.nan, 2), "0.85"),
        (style.interval(-0.001, -0.002, 0.002, 2), "0.00 [0.00, 0.00]"),
        (style.p_value(0.0004), "< 0.001"),
        (style.p_value(0.0123), "0.012"),
    ],
)
def test_numbers_are_written_for_readers(text, expected):
    assert text == expected


def test_a_saved_figure_has_minus_signs_in_its_numbers_and_hyphens_in_its_words(tmp_path):
    figure = style.page(Material({}, {}), height=40)
    axes = figure.subplots()
    axes.set_title("lag-1 is -0.5 [-1, 2e-05] in GAP-2")
    axes.set_yticks([0, 1], ["-.5", "a-1"])
    style.save(figure, tmp_path / "figure")
    drawn = (tmp_path / "figure.svg").read_text()
    for text in ("lag-1 is −0.5 [−1, 2e−05] in GAP-2", "−.5", "a-1"):
        assert f">{text}<" in drawn


def test_caption_names_scale_data_seeds_budget_and_losses(training_study):
    study = training_study(diverged=("raw/test/0.03/2", "raw/tune/0.1/0"))
    from optrepro.analysis.comparison import scores

    caption = captions.caption(
        " What is seen at -1.\n", Material({"gap-sgdm-scores": scores(study)}, {"gap-sgdm": study.facts})
    )
    assert caption == (
        "What is seen at −1. Scale: laptop. Data: Made-up (20,000 of 60,000 images). Network: perceptron, "
        "40 steps of 128 examples. 8 paired test seeds. Each optimizer's learning rate is tuned on validation data, "
        "over 3 values with 3 other seeds (9 runs). "
        "Diverged test runs: 1. Diverged tuning runs: 1. Missing runs: none."
    )


def test_caption_says_what_is_not_official(training_study):
    facts = training_study().facts
    record = {**facts.data[0], "official": False, "note": "a note"}
    caption = captions.caption("", Material({}, {"a": dataclasses.replace(facts, data=(record,))}))
    assert "not the official files; a note" in caption


def test_caption_says_that_labels_are_coarse_where_the_data_set_has_such(training_study):
    facts = training_study().facts
    facts = dataclasses.replace(facts, settings={**facts.settings, "labels": "coarse"})
    assert "coarse" not in captions.caption("", Material({}, {"a": facts}))
    facts = dataclasses.replace(facts, dataset="CIFAR-100 (10,000 images)")
    assert "CIFAR-100 (10,000 images); coarse labels, 20 classes in all." in captions.caption(
        "", Material({}, {"a": facts})
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"backbone": "gap-pretraining/gpt", "hub": None},
            "Data: GSM8K; tokens are bytes, all scored, those of questions too. "
            "Network: gpt, pretrained by gap-pretraining, with LoRA of rank 4, 50 steps of 8 examples.",
        ),
        (
            {"backbone": None, "hub": "someone/model", "revision": "0a" * 20},
            "Data: GSM8K; of questions, only the answers are scored. "
            "Network: someone/model with LoRA of rank 4, 50 steps of 8 examples.",
        ),
    ],
)
def test_caption_says_what_is_fine_tuned_and_what_is_scored(training_study, model, said):
    settings = {
        "kind": "finetuning",
        "task": {"modality": "language"},
        "lora": {"rank": 4},
        "steps": 50,
        "batch_size": 8,
    }
    facts = dataclasses.replace(training_study().facts, settings=complete("gap-lm", settings | model), dataset="GSM8K")
    assert said in captions.caption("", Material({}, {"a": facts}))


def test_caption_tells_studies_with_different_protocols_apart(training_study, families_study, concept_study):
    facts = {"gap-sgdm": training_study().facts, "gap-adam": training_study(adam=True).facts}
    assert "Of gap" not in captions.caption("", Material({}, facts))
    facts |= {"gap-families": families_study().facts, "gap-concept": concept_study().facts}
    caption = captions.caption("", Material({}, facts))
    assert "Of gap-sgdm and gap-adam: Data: Made-up" in caption
    assert "Of gap-families: 16 starts, and 4 others to tune on; 20 steps each." in caption
    assert "Of gap-concept: Data: Made-up. Network: perceptron. 3 seeds, 600 steps each." in caption


def test_caption_counts_missing_runs(training_study):
    facts = training_study(missing=("raw/test/0.03/1", "raw/test/0.03/2")).facts
    assert f"Missing runs: 2 of {facts.expected_runs}." in captions.caption("", Material({}, {"a": facts}))


@pytest.mark.parametrize(("color", "background", "ratio"), [("black", "white", 21), ("#777777", "white", 4.48)])
def test_contrast_is_that_of_the_wcag(color, background, ratio):
    assert style.contrast(color, background) == pytest.approx(ratio, abs=0.005)
    assert style.contrast(background, color) == style.contrast(color, background)


@pytest.mark.parametrize("color", ["#F58AC2", "#A8A8A8", "yellow", "#0B3C78"])
def test_the_colour_of_a_text_is_darkened_only_until_it_can_be_read(color):
    ink = style.legible(color)
    assert style.contrast(ink) >= style.READABLE
    assert (ink == color.lower()) == (style.contrast(color) >= style.READABLE)
    assert min(style.contrast(style.ink_on(color), color), style.contrast(ink)) >= style.READABLE
