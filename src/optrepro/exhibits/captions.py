"""Captions: an exhibit's own text, then what its studies say of their data, seeds and tuning, and what is missing."""

from __future__ import annotations

from optrepro.analysis.results import Facts
from optrepro.exhibits.material import Material
from optrepro.studies import kinds
from optrepro.studies.base import Study


def caption(text: str, material: Material) -> str:
    """The caption of an exhibit: its own text, then scale, data, seeds, tuning budget, and what diverged or is missing.

    Diverged runs are the sums of the columns ``diverged`` (test) and ``tuning_diverged`` over the exhibit's tables, so
    of the tables of a study at most one may carry each.
    """
    scales = " and ".join(dict.fromkeys(facts.scale for facts in material.facts.values()))
    sentences = [text.strip(), f"Scale: {scales}."]
    by_protocol: dict[str, list[str]] = {}
    for study, facts in material.facts.items():
        by_protocol.setdefault(_protocol(facts), []).append(study)
    for protocol, names in by_protocol.items():
        prefix = f"Of {' and '.join(names)}: " if len(by_protocol) > 1 else ""
        sentences += [prefix + protocol] if protocol else []
    return " ".join([*sentences, *_losses(material)])


def _protocol(facts: Facts) -> str:
    """Data, seeds and tuning of a study, in sentences."""
    study = kinds.study(facts.settings)
    sentences = (_data(study, facts), study.repetitions_in_words(), study.tuning_in_words(facts.datasets))
    return " ".join(sentence for sentence in sentences if sentence)


def _data(study: Study, facts: Facts) -> str:
    """Which examples, what is not as published about them, and what is trained on them."""
    if facts.dataset is None:
        return ""
    parts = [facts.dataset]
    if not all(record.get("official", True) for record in facts.data):
        parts.append("not the official files")
    parts += dict.fromkeys(record["note"] for record in facts.data if record.get("note"))
    parts += study.remarks_on_data(facts.dataset)
    network = study.network_in_words()
    return f"Data: {'; '.join(parts)}." + (f" Network: {network}." if network else "")


def _losses(material: Material) -> list[str]:
    """What diverged and what is missing, in words."""
    sentences = []
    for column, kind in (("diverged", "test runs"), ("tuning_diverged", "tuning runs")):
        counts = [int(table[column].sum()) for table in material.tables.values() if column in table]
        if counts:
            sentences.append(f"Diverged {kind}: {sum(counts) or 'none'}.")
    missing, expected = material.missing_runs()
    if expected:
        sentences.append(f"Missing runs: {f'{missing} of {expected}' if missing else 'none'}.")
    return sentences
