"""What the command writes into the README comes from the published exhibits, and the rest of the page stays."""

import json
from pathlib import Path

import pytest
import yaml

from optrepro import layout, provenance
from optrepro.config import ConfigError
from optrepro.site import material, readme

FINDING = {
    "text": "**A fair die shows {mean}** on average.",
    "numbers": {"mean": {"exhibit": "dice", "row": {"die": "fair"}, "column": "mean", "find": r"^\d\.\d"}},
}
CLAIM = {"statement": "Dice are fair.", "criterion": "c", "exhibit": "dice", "rule": "a.b", "settings": {"studies": []}}
FACTS = {
    "study": "dice",
    "scale": "tiny",
    "settings": {},
    "dataset": None,
    "data": [],
    "expected_runs": 0,
    "missing": [],
}
PAGE = """# Dice
<!-- counts -->
old
<!-- /counts -->
What stays.
<!-- findings -->
<!-- /findings -->
<!-- map -->
<!-- /map -->
<!-- exhibits -->
<!-- /exhibits -->
"""


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of one paper with a published exhibit, a claim of the paper and a control of this project."""
    monkeypatch.chdir(tmp_path)
    claims = [
        CLAIM | {"id": "fair", "source": "figure 1", "setting": "a casino"},
        CLAIM | {"id": "own", "source": "control of this project"},
    ]
    files = {
        "config/toys/paper.yaml": "{title: Toys, position: 1, absent: {Figure 2: the wheel is lost}}",
        "config/toys/exhibits.yaml": """
            tables: {dice: {function: a.b, studies: [dice]}, waiting: {function: a.b}, claims: {function: a.b}}
            exhibits:
              dice: {title: Dice, module: a.b, tables: [dice], caption: c, reproduces: Figure 1}
              again: {title: "Dice, thrown again", module: a.b, tables: [dice], caption: c, reproduces: Figure 1}
              waiting: {title: Later, module: a.b, tables: [waiting], caption: c, published: false}
        """,
        "config/toys/claims.yaml": yaml.safe_dump(claims),
        "config/findings.yaml": yaml.safe_dump([FINDING]),
        "results/published/tidy/dice.json": json.dumps(FACTS),
        "figures/dice.csv": 'die,mean\nfair,"3.5 [3.4, 3.6]"\nloaded,6\n',
        "figures/claims.csv": "id,verdict,evidence,scale,judged on\n"
        'fair,holds in part,e,"tiny, a proxy",dice\nown,undecided,e,tiny,dice\n',
    }
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for exhibit in ("dice", "claims"):
        stem = layout.exhibit(layout.PUBLISHED, exhibit)
        provenance.write_sidecar(Path(f"{stem}.json"), [Path(f"{stem}.csv")], [], exhibit=exhibit)


def test_everything_between_the_markers_is_written_anew_and_the_rest_stays() -> None:
    page = readme.insert(PAGE, Path("config"))
    assert "\nold\n" not in page
    assert "\nWhat stays.\n" in page
    assert "- **A fair die shows 3.5** on average." in page
    assert "- **1 claims of the papers**, all on a proxy: ◐ holds in part: 1" in page
    assert "- **1 controls of this project**, 0 on a proxy: ? undecided: 1" in page
    exhibits = "[`dice`](figures/dice.png), [`again`](figures/again.png)"
    assert f"| Figure 1 | {exhibits} | ◐ holds in part | tiny, a proxy | a casino |" in page
    assert "| Figure 2 | – | – | not reproduced: the wheel is lost | – |" in page
    assert page.count("**Toys**") == 2  # once in the map, once in the list of exhibits
    assert "- `waiting`, not published yet: Later" in page
    assert readme.insert(page, Path("config")) == page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": {"die": "square"}}, "has 0 rows with {'die': 'square'}; one is needed"),
        ({"row": {}}, "has 2 rows with {}; one is needed"),
        ({"column": "median"}, "has no column 'median'; it has die, mean"),
        ({"find": "seven"}, "'3.5 [3.4, 3.6]' has nothing like 'seven'"),
    ],
)
def test_a_number_that_is_not_there_is_one_error(change: dict[str, object], message: str) -> None:
    number = FINDING["numbers"]["mean"] | change
    Path("config/findings.yaml").write_text(yaml.safe_dump([FINDING | {"numbers": {"mean": number}}]))
    with pytest.raises(ConfigError) as caught:
        material.findings(Path("config"))
    assert str(caught.value).startswith("findings.yaml: mean: figures/dice.csv")
    assert message in str(caught.value)
