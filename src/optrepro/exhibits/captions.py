"""Captions: the text of an exhibit, followed by the data, seeds and tuning of its studies, and missing runs."""

from __future__ import annotations

from optrepro.analysis.results import Facts
from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.studies import kinds
from optrepro.studies.base import Study

EVALUATIONS = "-evaluations"  # end of the names of tables that hold the record of evaluations of a study


def caption(text: str, material: Material) -> str:
    """The caption of an exhibit: its text, then scale, data, seeds, tuning budget, recorded evaluations, and
    diverged and missing runs.

    The numbers of diverged runs are the sums of the columns ``diverged`` (test) and ``tuning_diverged`` over the
    exhibit's tables, so at most one table of a study may have each column.
    """
    scales = " and ".join(dict.fromkeys(facts.scale for facts in material.facts.values()))
    sentences = [text.strip(), f"Scale: {scales}."]
    by_protocol: dict[str, list[str]] = {}
    for study, facts in material.facts.items():
        by_protocol.setdefault(_protocol(facts), []).append(study)
    for protocol, names in by_protocol.items():
        prefix = f"Of {' and '.join(names)}: " if len(by_protocol) > 1 else ""
        sentences += [prefix + protocol] if protocol else []
    return style.typeset(" ".join([*sentences, *_evaluations(material), *_losses(material)]))


def _protocol(facts: Facts) -> str:
    """Sentences on the data, seeds and tuning of a study."""
    study = kinds.study(facts.settings)
    sentences = (_data(study, facts), study.repetitions_in_words(), study.tuning_in_words(facts.datasets))
    return " ".join(sentence for sentence in sentences if sentence)


def _data(study: Study, facts: Facts) -> str:
    """A sentence on the data and on deviations from the published data, and one on the network."""
    if facts.dataset is None:
        return ""
    parts = [facts.dataset]
    if not all(record.get("official", True) for record in facts.data):
        parts.append("not the official files")
    parts += dict.fromkeys(record["note"] for record in facts.data if record.get("note"))
    parts += study.remarks_on_data(facts.dataset)
    network = study.network_in_words()
    return f"Data: {'; '.join(parts)}." + (f" Network: {network}." if network else "")


def _evaluations(material: Material) -> list[str]:
    """A sentence on how often each collection was evaluated, from the tables of `optrepro.analysis.evaluations`."""
    sentences = []
    for name, table in material.tables.items():
        if name.endswith(EVALUATIONS):
            looks = "; ".join(f"({number}) {words}" for number, words in enumerate(table.words, 1))
            sentences.append(f"Evaluations of {name.removesuffix(EVALUATIONS)} on record: {looks or 'none'}.")
    return sentences


def _losses(material: Material) -> list[str]:
    """Sentences on the numbers of diverged and missing runs."""
    sentences = []
    for column, kind in (("diverged", "test runs"), ("tuning_diverged", "tuning runs")):
        counts = [int(table[column].sum()) for table in material.tables.values() if column in table]
        if counts:
            sentences.append(f"Diverged {kind}: {sum(counts) or 'none'}.")
    missing, expected = material.missing_runs()
    if expected:
        sentences.append(f"Missing runs: {f'{missing} of {expected}' if missing else 'none'}.")
    return sentences
