from pathlib import Path

import pandas as pd

from optrepro import evaluations
from optrepro.analysis.evaluations import COLUMNS, of
from optrepro.evaluations import Evaluation
from optrepro.exhibits import captions
from optrepro.exhibits.material import Material

RECORD = Evaluation(
    study="pop-cutest", scale="overnight", weights={"pop": "ab" * 32}, collections={}, packages={}, commits=("c",)
)


def captioned(study, looks: pd.DataFrame) -> str:
    return captions.caption("Text.", Material({"pop-cutest-evaluations": looks}, {"pop-cutest": study.facts}))


def test_a_caption_says_each_look_at_its_study_alone(outside_study, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    evaluations.write([RECORD, RECORD.model_copy(update={"study": "pop-bbob"}), RECORD], path)
    table = of(outside_study(), str(path))
    assert list(table.columns) == COLUMNS
    said = "scale overnight, not complete, weights pop abababababab"
    assert f"Evaluations of pop-cutest on record: (1) {said}; (2) {said}." in captioned(outside_study(), table)


def test_without_a_record_the_caption_says_none(outside_study, tmp_path: Path) -> None:
    table = of(outside_study(), str(tmp_path / "record.json"))
    assert "Evaluations of pop-cutest on record: none." in captioned(outside_study(), table)
