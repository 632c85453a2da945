import json
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from matplotlib.figure import Figure

from optrepro import provenance
from optrepro.catalogue import ExhibitEntry
from optrepro.exhibits import render, style
from optrepro.exhibits.material import Material
from tests.made_up.rows import complete

NUMBERS = pd.DataFrame({"optimizer": ["GAP & co_1", "SGD 50%"], "accuracy": ["0.9", "0.8"]})
SEEN: list[Material] = []
ENTRY = ExhibitEntry(
    system="gap", title="Comparison", module="optrepro.exhibits.made_up", tables=("scores",), caption="All of 100%."
)
FACTS = {
    "study": "images",
    "scale": "tiny",
    "settings": complete("gap-sgdm", {"test_repetitions": 3}),
    "dataset": "Made-up",
    "data": [{"official": True}],
    "expected_runs": 12,
    "missing": [],
}


def figure(material: Material) -> Figure:
    SEEN.append(material)
    page = style.page(material, height=40)
    page.subplots().plot(material.tables["scores"].value, label="a")
    return page


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(ENTRY.module)
    module.figure, module.table = figure, lambda material: NUMBERS
    monkeypatch.setitem(sys.modules, ENTRY.module, module)
    monkeypatch.setattr(provenance, "source_hash", lambda *modules: f"hash of {' and '.join(modules)}")
    SEEN.clear()


def drawn(folder: Path, stem: str = "comparison", **facts: object) -> Path:
    """The stem of an exhibit drawn from one table of one study."""
    inputs = folder / "results"
    inputs.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"value": [1.0, 2.0]}).to_parquet(inputs / "scores.parquet")
    pd.DataFrame({"run": ["a"]}).to_parquet(inputs / "images.parquet")
    (inputs / "images.json").write_text(json.dumps({**FACTS, **facts}))
    out = folder / "figures" / stem
    render.render("comparison", ENTRY, [inputs / "scores.parquet"], [inputs / "images.json"], out)
    return out


def test_an_exhibit_is_a_figure_a_table_and_a_sidecar(tmp_path: Path) -> None:
    out = drawn(tmp_path)
    names = {f"comparison.{suffix}" for suffix in ("svg", "png", "csv", "md", "tex", "json")}
    assert {path.name for path in out.parent.iterdir()} == names
    assert all(path.stat().st_size for path in out.parent.iterdir())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in out.with_suffix(".svg").read_text()


def test_the_exhibit_sees_its_tables_and_facts_by_name(tmp_path: Path) -> None:
    drawn(tmp_path)
    [material] = SEEN
    assert material.tables["scores"].value.tolist() == [1.0, 2.0]
    assert material.facts["images"].scale == "tiny"


def test_drawing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (drawn(tmp_path / name).parent for name in ("first", "second"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_the_sidecar_ties_every_file_to_the_tables_and_the_results_behind_them(tmp_path: Path) -> None:
    out = drawn(tmp_path)
    record = json.loads(out.with_suffix(".json").read_text())
    assert set(record["outputs"]) == {f"comparison.{suffix}" for suffix in render.FORMATS}
    assert set(record["inputs"]) == {f"../results/{n}" for n in ("scores.parquet", "images.parquet", "images.json")}
    assert (record["exhibit"], record["title"]) == ("comparison", "Comparison")
    assert record["source"] == "hash of optrepro.exhibits.made_up and optrepro.exhibits.render"
    assert provenance.check_sidecar(out.with_suffix(".json")) == {}


def test_the_files_lie_together_whatever_the_stem_is_called(tmp_path: Path) -> None:
    out = drawn(tmp_path, stem="another")
    assert {path.stem for path in out.parent.iterdir()} == {"another"}
    assert provenance.check_sidecar(out.with_suffix(".json")) == {}


@pytest.mark.parametrize("suffix", ["json", "md", "tex"])
def test_the_caption_says_scale_data_and_seeds_wherever_it_stands(suffix: str, tmp_path: Path) -> None:
    text = drawn(tmp_path).with_suffix(f".{suffix}").read_text()
    for part in ("All of 100", "Scale: tiny", "Data: Made-up", "3 paired test seeds", "Missing runs: none"):
        assert part in text


def test_the_caption_counts_missing_runs(tmp_path: Path) -> None:
    out = drawn(tmp_path, missing=["a", "b"])
    assert "Missing runs: 2 of 12." in json.loads(out.with_suffix(".json").read_text())["caption"]


def test_the_csv_holds_the_numbers(tmp_path: Path) -> None:
    text = drawn(tmp_path).with_suffix(".csv").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(text), dtype=str), NUMBERS, check_dtype=False)


def test_the_markdown_table_has_a_row_for_each_row_and_rounds_nothing(tmp_path: Path) -> None:
    lines = drawn(tmp_path).with_suffix(".md").read_text().splitlines()
    assert [cell.strip() for cell in lines[-1].strip("|").split("|")] == ["SGD 50%", "0.8"]
    assert sum(line.startswith("|") for line in lines) == 2 + len(NUMBERS)


def test_latex_special_characters_are_escaped_in_cells_and_caption(tmp_path: Path) -> None:
    text = drawn(tmp_path).with_suffix(".tex").read_text()
    assert r"GAP \& co\_1" in text
    assert r"All of 100\%." in text
    assert r"\label{tab:comparison}" in text
