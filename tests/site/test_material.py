"""What the site shows of a scale is what was drawn and recorded, and nothing is shown where nothing was."""

import json
from pathlib import Path

import pandas as pd
import pytest

from optrepro import layout, provenance
from optrepro.config import ConfigError
from optrepro.damage import DamagedFileError
from optrepro.experiments.base.tidy import write_parquet
from optrepro.site import material

EXHIBITS = """
tables: {curves: {function: dice.curves, studies: [dice]}}
exhibits:
  dice:
    title: Dice
    module: dice
    tables: [curves]
    caption: What the dice show.
    curves: {table: curves, x: throw, y: mean, shows: the mean, panels: [die], where: {hand: left}}
"""
RECORD = {
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "environment": {"machine": "x86_64", "packages": {"torch": "2.9"}},
    "device": "cpu",
    "threads": 2,
    "wall_seconds": 900.0,
}
FACTS = {
    "study": "dice",
    "scale": "tiny",
    "settings": {"optimizers": {"fair": {"label": "a fair one"}, "loaded": {"label": "a loaded one"}}},
    "dataset": None,
    "data": [],
    "expected_runs": 2,
    "missing": [],
}
CURVES = pd.DataFrame(
    {
        "optimizer": ["fair", "fair", "loaded", "fair"],
        "die": ["cube", "cube", "cube", "coin"],
        "hand": ["left", "left", "left", "right"],
        "throw": [1, 2, 1, 1],
        "mean": [3.0, 3.1234567, 6.0, 0.5],
    }
)


@pytest.fixture(autouse=True)
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of one paper, whose one exhibit was drawn at the scale `tiny`."""
    monkeypatch.chdir(tmp_path)
    files = {
        "config/toys/paper.yaml": "{title: Toys, position: 1}",
        "config/toys/exhibits.yaml": EXHIBITS,
        "results/tiny/tidy/dice.json": json.dumps(FACTS),
        "results/tiny/runs/dice/one/run.json": json.dumps(RECORD),
        "results/tiny/runs/dice/two/run.json": json.dumps(RECORD | {"git": {"commit": "f" * 40, "dirty": True}}),
        "figures/tiny/dice.svg": '<svg viewBox="0 0 360 120.5"></svg>',
        "figures/tiny/dice.csv": "die,mean\ncube,NA\n",
        "figures/tiny/dice.tex": "",
    }
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    _record("What the dice show. Scale: tiny.")
    write_parquet(CURVES, layout.table("tiny", "curves"))


def _record(caption: str) -> None:
    stem = layout.exhibit("tiny", "dice")
    outputs = [Path(f"{stem}.{kind}") for kind in material.DOWNLOADS]
    provenance.write_sidecar(Path(f"{stem}.json"), outputs, [], exhibit="dice", title="Dice", caption=caption)


def test_an_exhibit_is_shown_as_it_was_drawn() -> None:
    (shown,) = material.read("tiny", Path("config")).of("toys")
    assert (shown.reading, shown.setup) == ("What the dice show.", "Scale: tiny.")
    assert shown.size == (360, 120.5)
    assert shown.table.to_dict("records") == [{"die": "cube", "mean": "NA"}]
    assert shown.judged == ()


def test_a_caption_that_was_drawn_before_an_edit_of_the_config_is_shown_whole() -> None:
    _record("What dice showed. Scale: tiny.")
    (shown,) = material.read("tiny", Path("config")).exhibits
    assert (shown.reading, shown.setup) == ("What dice showed. Scale: tiny.", "")


def test_the_origin_adds_up_the_records_of_all_runs() -> None:
    origin = material.read("tiny", Path("config")).origin
    assert origin == material.Origin(("tiny",), ("0123456", "fffffff+"), ("x86_64, cpu",), ("torch 2.9",), 2, 1.0)


def test_curves_are_those_of_the_rows_asked_for_by_panel_and_optimizer() -> None:
    (shown,) = material.read("tiny", Path("config")).exhibits
    assert shown.series == {
        "x": "throw",
        "y": "the mean",
        "labels": {"fair": "a fair one", "loaded": "a loaded one"},
        "panels": {"cube": {"fair": {"x": [1, 2], "y": [3.0, 3.1235]}, "loaded": {"x": [1], "y": [6.0]}}},
    }


def test_a_scale_of_which_nothing_is_drawn_has_no_site() -> None:
    with pytest.raises(ConfigError, match="scale = 'other' has no exhibits; run it first"):
        material.read("other", Path("config"))


def test_an_altered_figure_is_not_shown() -> None:
    Path("figures/tiny/dice.svg").write_text('<svg viewBox="0 0 1 1"></svg>')
    with pytest.raises(DamagedFileError, match=r"dice\.svg"):
        material.read("tiny", Path("config"))
