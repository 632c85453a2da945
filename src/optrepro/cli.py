"""The command line: one command for each rule of the workflow, usable without Snakemake."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from optrepro import __version__, catalogue, layout, provenance, runtable
from optrepro.config import Config, ConfigError, load, parse, schema
from optrepro.damage import DamagedFileError
from optrepro.problems.data.archives import FetchError
from optrepro.settings import shortened
from optrepro.studies.base import Batch

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="List and download data sets.")
app.add_typer(data_app, name="data")

ConfigPath = Annotated[Path, typer.Option("--config", envvar="OPTREPRO_CONFIG", help="Scale file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, as studies.vlse.starts=8; repeatable.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of downloads. [default: OPTREPRO_DATA, or data]")]
CatalogueDir = Annotated[Path, typer.Option("--catalogue", help="Config folder, which holds the papers' folders.")]
DEFAULT = Path("config/laptop.yaml")
PICTURES = (".png", ".svg", ".pdf")
T = TypeVar("T")


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Handle the options of the program itself."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def plan(config: ConfigPath = DEFAULT, set_: Overrides = None) -> None:
    """Print the run table as CSV: one row per run, with the batch that carries it out."""
    settings = _settings(config, set_)
    typer.echo("batch,run,study,workload,optimizer,role,learning_rate,repetition,seed")
    for study in settings.studies:
        for batch in runtable.batches(settings, study):
            for run in batch.runs:
                rate = "tuned" if run.learning_rate is None else run.learning_rate
                row = (batch.name, run.id, study, run.workload, run.optimizer, run.role, rate, run.repetition, run.seed)
                typer.echo(",".join(map(str, row)))


@app.command()
def check(config: ConfigPath = DEFAULT, set_: Overrides = None, out: Path | None = None) -> None:
    """Construct every optimizer, network and data set that the config names; write the resolved config."""
    from optrepro.experiments import check as checks

    settings = _settings(config, set_)
    checks.check(settings)
    if out is not None:
        _write(out, settings.model_dump_json(indent=1, by_alias=True) + "\n")


@app.command()
def run(
    study: str,
    batch: str,
    config: ConfigPath = DEFAULT,
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Metrics file. [default: its place in results]")] = None,
    earlier: Annotated[list[Path] | None, typer.Option(help="Metrics of a batch that this batch needs.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Trained weights that this batch uses.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of PyTorch.")] = 1,
    minutes: Annotated[float, typer.Option(min=0, help="Save and stop after this time (status 75); 0: never.")] = 0,
) -> None:
    """Run one batch; resume from its checkpoint if there is one."""
    import torch

    from optrepro.experiments import run as jobs

    torch.set_num_threads(threads)
    settings = _settings(config, set_)
    chosen = _batch(settings, study, batch)
    default = layout.metrics(settings.scale, study, batch)
    needs = [layout.metrics(settings.scale, study, name) for name in chosen.needs]
    jobs.run_batch(
        settings,
        chosen,
        out or default,
        earlier if earlier is not None else needs,
        weights or (layout.weights(settings.scale, *chosen.weights) if chosen.weights else None),
        60 * minutes or None,
        _progress(),
    )


@app.command()
def collect(
    study: str,
    metrics: list[Path],
    out: Path,
    config: ConfigPath = DEFAULT,
    set_: Overrides = None,
) -> None:
    """Collect a study's runs into one tidy table and write its facts beside it."""
    from optrepro.experiments import collect as gather

    gather.collect(_settings(config, set_), study, metrics, out)


@app.command()
def table(
    name: str,
    tidy: list[Path],
    out: Annotated[Path, typer.Option(help="Parquet file.")],
    folder: CatalogueDir = Path("config"),
) -> None:
    """Compute a table of the analysis from tidy results."""
    from optrepro.analysis import tables
    from optrepro.experiments.base.tidy import write_parquet

    write_parquet(tables.compute(_entry(catalogue.load(folder).tables, name, "table"), tidy), out)


@app.command()
def exhibit(
    name: str,
    tables: list[Path],
    out: Annotated[Path, typer.Option(help="Path of the files without suffix, as figures/gap-sgdm.")],
    facts: Annotated[list[Path], typer.Option(help="Facts of a study behind the tables.")],
    folder: CatalogueDir = Path("config"),
) -> None:
    """Draw an exhibit from its tables: SVG and PNG, and the numbers as CSV, Markdown and LaTeX."""
    from optrepro.exhibits import render

    render.render(name, _entry(catalogue.load(folder).exhibits, name, "exhibit"), tables, facts, out)


@app.command()
def report(
    exhibits: list[Path],
    out: Annotated[Path, typer.Option(help="HTML file.")],
    folder: CatalogueDir = Path("config"),
) -> None:
    """Write exhibits (given by their JSON sidecars) and the fidelity ledger to one HTML page."""
    from optrepro.exhibits import report

    report.write(exhibits, catalogue.choices(folder), out)


@app.command()
def verify(scale: Annotated[str, typer.Argument(help="A scale, or 'published'.")] = layout.PUBLISHED) -> None:
    """Compare results and exhibits with the hashes in their sidecars; list altered, stale and missing ones."""
    from optrepro import verification

    findings = verification.verify(scale, catalogue.load(Path("config")))
    for finding in findings:
        typer.echo(f"{finding.what}: {finding.verdict}{f' ({finding.detail})' if finding.detail else ''}")
    verdicts = {finding.verdict for finding in findings}
    if verdicts - {"ok"}:
        raise typer.Exit(2 if "damaged" in verdicts else 1)


@app.command()
def publish(
    scale: Annotated[str, typer.Argument(help="The scale whose tidy results become the published ones.")],
) -> None:
    """Copy a scale's tidy results, with the sidecars of their runs, to results/published."""
    from optrepro import verification

    for path in verification.publish(scale):
        typer.echo(path)


@app.command()
def minimize(
    function: Annotated[str, typer.Option(help="Benchmark function, as rosenbrock.")],
    optimizer: Annotated[str, typer.Option(help="pop, adam, sgd, ..., a policy file, or a dotted class path.")] = "pop",
    dim: Annotated[int | None, typer.Option(help="Dimension. [default: the function's own, or 2]")] = None,
    budget: Annotated[int, typer.Option(help="Evaluations of value and gradient.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random start.")] = 0,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate in units of the box's edge. [default: one for each optimizer]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Picture of the trajectory, as trajectory.png.")] = None,
) -> None:
    """Minimize a benchmark function with one optimizer; print the progress and draw the trajectory."""
    from optrepro.experiments.descent import minimize as experiment

    if out is not None and out.suffix not in PICTURES:
        raise ConfigError(f"out = {str(out)!r} is not allowed: it must end in {', '.join(PICTURES)}")
    f, chosen = experiment.function(function, dim), experiment.optimizer(optimizer, lr)
    title = f"{chosen.config.label} on {f.title}" + ("" if "-D" in f.title else f", {f.dim}-D")
    typer.echo(f"{title}; minimum {f.optimum:.6g}")
    path = experiment.minimize(f, chosen, budget, seed)
    for line in experiment.progress(path, budget):
        typer.echo(line)
    if out is not None:
        from optrepro.exhibits import trajectory

        surface = experiment.surface(f) if f.dim == 2 else None
        out.parent.mkdir(parents=True, exist_ok=True)
        trajectory.figure(path, surface, title, chosen.key).savefig(out)
        typer.echo(out)


@app.command("schema")
def schema_(out: Annotated[Path | None, typer.Option(help="File. [default: standard output]")] = None) -> None:
    """Print the JSON schema of the config."""
    text = json.dumps(schema(), indent=1, sort_keys=True) + "\n"
    typer.echo(text, nl=False) if out is None else _write(out, text)


@app.command("manual")
def manual_(
    out: Annotated[Path | None, typer.Option(help="Page with the markers. [default: standard output]")] = None,
) -> None:
    """Print the tables of all keys of the config, or insert them between the markers of a page."""
    from optrepro import manual

    if out is None:
        typer.echo(manual.text(), nl=False)
        return
    try:
        _write(out, manual.insert(out.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out}: {error}") from None


@data_app.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """Print for each data set whether it is available locally."""
    from optrepro.problems.data import archives

    for name in archives.ARCHIVES:
        here = archives.at_hand(name, data_dir or archives.DATA_DIR)
        typer.echo(f"{name:15} {'at hand' if here else 'not at hand'}")


@data_app.command("fetch")
def data_fetch(name: str, data_dir: DataDir = None, out: Annotated[Path | None, typer.Option()] = None) -> None:
    """Download a data set from its official source, unless it is available; with --out, list its files there."""
    from optrepro.problems.data import archives

    folder = data_dir or archives.DATA_DIR
    embedded = _entry(archives.ARCHIVES, name, "data set").embedded
    for fault in archives.refresh(name, folder, progress=sys.stderr.isatty()):
        typer.echo(f"{fault}; the data set is fetched again", err=True)
    files = [] if embedded else archives.locate(name, folder).files
    listing = "".join(f"{provenance.file_hash(path)}  {path.name}\n" for path in files)
    if out is not None:
        _write(out, listing)


def _settings(path: Path, overrides: list[str] | None) -> Config:
    """The config of a scale file with overrides: first those that the workflow passes to its jobs, then these."""
    variable = os.environ.get("OPTREPRO_OVERRIDES", "[]")
    inherited = parse(variable, "OPTREPRO_OVERRIDES")
    if not isinstance(inherited, list) or not all(isinstance(text, str) for text in inherited):
        raise ConfigError(f"OPTREPRO_OVERRIDES = {shortened(variable)} is not allowed; it is a list of texts in JSON")
    return load(path, [*inherited, *(overrides or ())])


def _batch(settings: Config, study: str, name: str) -> Batch:
    if study not in settings.studies:
        raise ConfigError(f"study = {study!r} is not one of {sorted(settings.studies)}")
    by_name = {batch.name: batch for batch in runtable.batches(settings, study)}
    if name not in by_name:
        raise ConfigError(f"batch = {name!r} is not one of {list(by_name)}")
    return by_name[name]


def _entry(entries: dict[str, T], name: str, kind: str) -> T:
    if name not in entries:
        raise ConfigError(f"{kind} = {name!r} is not one of {sorted(entries)}")
    return entries[name]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _progress() -> Callable[[int, int, str], None]:
    """A callback (done, total, label) that shows a progress bar, or without a terminal prints every ten seconds."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(unit="step", smoothing=0.1)

        def draw(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        return draw

    last = time.monotonic()

    def log(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= 10 or done == total:
            last = time.monotonic()
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return log


_WRONG_PLACE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def entry_point() -> None:
    """Run the program; errors that the user can correct are printed as one line, without a traceback."""
    try:
        app()
    except (ConfigError, DamagedFileError, FetchError, runtable.MissingRunsError, *_WRONG_PLACE) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    entry_point()
