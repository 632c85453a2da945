"""Check results and exhibits against their sidecars, and publish the results of a scale."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optrepro import damage, evaluations, layout, provenance
from optrepro.catalogue import Catalogue
from optrepro.damage import DamagedFileError
from optrepro.settings import ConfigError
from optrepro.studies import kinds


@dataclass(frozen=True)
class Finding:
    """The verdict on an exhibit, named by its id, or on a file of results.

    `verdict` is ``ok``, ``missing``, ``altered`` (the file changed after it was written), ``stale`` (an input or the
    code changed since) or ``damaged`` (the sidecar, which holds the hashes, cannot be read).
    """

    what: str
    verdict: str
    detail: str = ""


def verify(scale: str, catalogue: Catalogue) -> list[Finding]:
    """Compare the files of a scale, or of the published results, with the hashes in their sidecars."""
    names = catalogue.published() if scale == layout.PUBLISHED else catalogue.exhibits
    return [*_results(scale), *(_exhibit(scale, name, catalogue) for name in names)]


def publish(scale: str) -> Iterator[Path]:
    """Copy a scale's tidy results to the published ones; each new sidecar includes those of the study's runs.

    Raises: FileNotFoundError if the scale has no tidy results; ConfigError if those on collections of others are not on
    the record of evaluations.
    """
    folder = Path("results", scale, "tidy")
    if not (results := sorted(folder.glob("*.parquet"))):
        raise FileNotFoundError(f"{folder} holds no tidy results to publish; run the scale first")
    for tidy in results:
        _require_record(tidy, scale)
    for tidy in results:
        target = layout.tidy(layout.PUBLISHED, tidy.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        copies = [Path(shutil.copyfile(f, target.with_name(f.name))) for f in (tidy, tidy.with_suffix(".json"))]
        runs = sorted(Path("results", scale, "runs", tidy.stem).glob("*/run.json"))
        provenance.write_sidecar(
            target.with_suffix(".sidecar.json"),
            outputs=copies,
            inputs=[],
            runs={path.parent.name: damage.record(path) for path in runs},
        )
        yield from copies


def _require_record(tidy: Path, scale: str) -> None:
    """Check that an evaluation on problems of others was recorded. Raises: ConfigError if it was not."""
    facts = damage.record(tidy.with_suffix(".json"), "settings", "missing")
    if facts["missing"] or not kinds.study(facts["settings"]).packages():
        return
    collections = facts["settings"]["collections"]
    recorded = [
        each.study == tidy.stem and each.scale == scale and each.complete and each.collections == collections
        for each in evaluations.read()
    ]
    if not any(recorded):
        raise ConfigError(
            f"{tidy} cannot be published: {evaluations.RECORD.as_posix()} has no complete evaluation of {tidy.stem} at "
            f"the scale {scale}; run: optrepro evaluate {tidy.stem}"
        )


def _results(scale: str) -> Iterator[Finding]:
    folder = Path("results", scale)
    for sidecar in sorted([*folder.glob("runs/*/*/run.json"), *folder.glob("tidy/*.sidecar.json")]):
        try:
            problems = provenance.check_sidecar(sidecar)
        except DamagedFileError as error:
            yield Finding(sidecar.as_posix(), "damaged", f"{error.reason}; {error.advice}")
            continue
        for name, verdict in problems.items():
            yield Finding((sidecar.parent / name).as_posix(), verdict)


def _exhibit(scale: str, name: str, catalogue: Catalogue) -> Finding:
    sidecar = Path(f"{layout.exhibit(scale, name)}.json")
    if not sidecar.exists():
        return Finding(name, "missing", "it has not been drawn")
    try:
        problems, source = provenance.check_sidecar(sidecar), damage.record(sidecar, "source")["source"]
    except DamagedFileError as error:
        return Finding(name, "damaged", f"{error.path}: {error.reason}; {error.advice}")
    for verdict in ("missing", "altered", "stale"):
        if files := [file for file, found in problems.items() if found == verdict]:
            return Finding(name, verdict, ", ".join(files))
    modules = provenance.source_hash(catalogue.exhibits[name].module, "optrepro.exhibits.render")
    if source != modules:
        return Finding(name, "stale", "the code that draws it changed")
    return Finding(name, "ok")
