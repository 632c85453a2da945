"""The command line: one command for each rule of the workflow, usable without Snakemake."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from optrepro import __version__, catalogue, layout, provenance, runtable
from optrepro.config import Config, ConfigError, load, parse, schema
from optrepro.conventions import TIME_IS_UP
from optrepro.damage import DamagedFileError
from optrepro.problems.data.archives import FetchError
from optrepro.settings import shortened

# Importing torch or pandas makes objects by the hundred thousand, none of them garbage. With Python's threshold of 700
# new ones, looking for garbage among them takes a tenth of the time of a short command.
gc.set_threshold(100_000)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="List and download data sets.")
store_app = typer.Typer(no_args_is_help=True, help="Keep the store of finished work in order.")
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")

ConfigPath = Annotated[Path, typer.Option("--config", envvar="OPTREPRO_CONFIG", help="Scale file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, as studies.vlse.starts=8; repeatable.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of downloads. [default: OPTREPRO_DATA, or data]")]
CatalogueDir = Annotated[Path, typer.Option("--catalogue", help="Config folder, which holds the papers' folders.")]
Scale = Annotated[str, typer.Option(help="The scale whose results are used, or 'published'.")]
Newcomer = Annotated[str, typer.Argument(help="File and class, as my_optimizer.py:MyOptimizer, or an import path.")]
NewcomerSettings = Annotated[str, typer.Option("--settings", help="Keyword arguments of the class, as JSON or YAML.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Jobs at the same time. [default: one for each core]")]
Minutes = Annotated[float, typer.Option(min=0, help="Save and stop after this time (status 75); 0: never.")]
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
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights to use in place of those of the config.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of PyTorch.")] = 1,
    minutes: Minutes = 0,
) -> None:
    """Run one batch unless its results are in the store; resume from its state if there is one."""
    from optrepro.experiments import jobs, work

    settings = _settings(config, set_)
    found = jobs.Jobs(settings)
    chosen = found.batch((study, batch))
    if weights is not None and chosen.weights is None:
        raise ConfigError(f"weights = {str(weights)!r} is not allowed: {study}/{batch} uses no trained weights")
    job = found.job(chosen, weights)
    if job is None:
        missing = ["/".join(each) for each in found.needed(chosen) if found.finished(found.batch(each)) is None]
        raise ConfigError(f"{study}/{batch} needs the results of {', '.join(missing)}; run them first")
    work.carry_out(found, job, 60 * minutes or None, threads)


@app.command()
def work(
    studies: Annotated[list[str] | None, typer.Argument(help="Studies. [default: all of the config]")] = None,
    config: ConfigPath = DEFAULT,
    set_: Overrides = None,
    workers: Workers = None,
    minutes: Minutes = 0,
) -> None:
    """Run what is missing of the studies, and of what they need, on this machine; then collect their results.

    Whatever is in the store is taken from there. The status is 1 if a job failed, and 75 if the time was up.
    """
    from optrepro.experiments import work as shift

    settings = _settings(config, set_)
    chosen = _studies(settings, studies)
    done = shift.work(
        settings, chosen, workers or _cores(), 60 * minutes or None, lambda line: typer.echo(line, err=True)
    )
    typer.echo(
        f"{len(done.finished)} batches ran, {len(done.stored)} were in the store, {len(done.failed)} failed, "
        f"{len(done.waiting)} are left; {len(done.collected)} of {len(chosen)} studies are complete",
        err=True,
    )
    if done.failed:
        raise typer.Exit(1)
    if done.waiting:
        raise typer.Exit(TIME_IS_UP)


@app.command()
def evaluate(
    studies: Annotated[list[str], typer.Argument(help="Studies of the kind transfer, as pop-cutest.")],
    config: ConfigPath = DEFAULT,
    set_: Overrides = None,
    workers: Workers = None,
    minutes: Minutes = 0,
    again: Annotated[bool, typer.Option("--again", help="Look a second time, with other weights of a policy.")] = False,
) -> None:
    """Evaluate final weights on collections, once, and record it in results/published/evaluations.json.

    Runs what is left of the studies, so the same command goes on after a stop; then publish the scale.
    """
    from optrepro.experiments import evaluate as evaluation

    settings = _settings(config, set_)
    chosen = _studies(settings, studies)
    done = evaluation.evaluate(
        settings, chosen, workers or _cores(), 60 * minutes or None, again, lambda line: typer.echo(line, err=True)
    )
    for each in done:
        typer.echo(f"{each.study}: {each.in_words()}, {each.cpu_hours:.2f} CPU hours")
    if not all(each.complete for each in done):
        raise typer.Exit(TIME_IS_UP if minutes else 1)


@app.command()
def halve(
    study: Annotated[str, typer.Argument(help="Study of the kind halving, as pop-halving.")],
    config: ConfigPath = Path("config/halving.yaml"),
    set_: Overrides = None,
    minutes: Minutes = 0,
) -> None:
    """Compare hyperparameters of POP's training by successive halving; print the table and write it as CSV."""
    from optrepro.analysis.pop import halving
    from optrepro.analysis.results import read_study
    from optrepro.experiments import work as shift

    settings = _settings(config, set_)
    [chosen] = _studies(settings, [study])
    kind = settings.studies[chosen].kind
    if kind != "halving":
        raise ConfigError(f"study = {study!r} is not allowed: it is of the kind {kind}, and not halving")
    done = shift.work(settings, [chosen], 1, 60 * minutes or None, lambda line: typer.echo(line, err=True))
    if not done.collected:
        raise typer.Exit(1 if done.failed else TIME_IS_UP)
    found = halving.table(read_study(layout.tidy(settings.scale, chosen)))
    path = layout.table(settings.scale, chosen).with_suffix(".csv")
    _write(path, found.to_csv(index=False))
    typer.echo(found.to_markdown(index=False, floatfmt=".4f"))
    typer.echo(path)


@app.command()
def status(
    studies: Annotated[list[str] | None, typer.Argument(help="Studies. [default: all of the config]")] = None,
    config: ConfigPath = DEFAULT,
    set_: Overrides = None,
) -> None:
    """Print for each study what is done, what failed, the time spent and the time left, by the records of like runs."""
    from optrepro.experiments import status as states

    settings = _settings(config, set_)
    typer.echo(f"{'study':24}{'batches':>8}{'done':>6}{'begun':>6}{'failed':>7}{'spent':>9}{'left':>9}")
    for each in states.of(settings, _studies(settings, studies)):
        left = "?" if each.left is None else _duration(each.left)
        counts = f"{each.batches:8}{each.done:6}{each.begun:6}{len(each.failed):7}"
        typer.echo(f"{each.study:24}{counts}{_duration(each.spent):>9}{left:>9}")
        for name, reason in each.failed.items():
            typer.echo(f"  {each.study}/{name} failed: {reason}")


@store_app.command()
def prune(
    configs: Annotated[list[Path] | None, typer.Argument(help="Scale files. [default: all in config]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
) -> None:
    """Delete from the store what no config asks for, with the present code."""
    from optrepro.experiments import status as states
    from optrepro.store import Store

    store = Store()
    settings = [_settings(path, None) for path in configs or sorted(Path("config").glob("*.yaml")) if _is_scale(path)]
    keep = states.keys(settings, store)
    for path in store.prune(keep, dry_run):
        typer.echo(path)


@app.command()
def table(names: list[str], scale: Scale = DEFAULT.stem, folder: CatalogueDir = Path("config")) -> None:
    """Compute tables of the analysis from the tidy results of a scale."""
    from optrepro.analysis import tables
    from optrepro.experiments.base.tidy import write_parquet

    known = catalogue.load(folder).tables
    for name, computed in tables.compute({name: _entry(known, name, "table") for name in names}, scale):
        write_parquet(computed, layout.table(scale, name))


@app.command()
def exhibit(name: str, scale: Scale = DEFAULT.stem, folder: CatalogueDir = Path("config")) -> None:
    """Draw an exhibit from the tables of a scale: SVG and PNG, and the numbers as CSV, Markdown and LaTeX."""
    from optrepro.exhibits import render

    known = catalogue.load(folder)
    entry = _entry(known.exhibits, name, "exhibit")
    tables = [layout.table(scale, each) for each in entry.tables]
    facts = [layout.tidy(scale, study).with_suffix(".json") for study in known.studies_of(name)]
    render.render(name, entry, tables, facts, layout.exhibit(scale, name))


@app.command()
def site(
    scale: Scale = DEFAULT.stem,
    out: Annotated[Path | None, typer.Option(help="Folder. [default: results/<scale>/site]")] = None,
    folder: CatalogueDir = Path("config"),
) -> None:
    """Build the site of a scale: exhibits, claims, choices, guides and references, in pages that need no server."""
    from optrepro.site import build

    target = out or layout.site(scale)
    typer.echo(build.build(scale, target, folder), err=True, nl=False)
    typer.echo(target / "index.html")


@app.command("readme")
def readme_(folder: CatalogueDir = Path("config")) -> None:
    """Write the counts, numbers and lists of the README and of figures/README.md from the published exhibits."""
    from optrepro.site import readme

    for page in map(Path, readme.PAGES):
        _write(page, readme.insert(page.read_text(), folder))


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


@app.command("check-optimizer")
def check_optimizer(
    optimizer: Newcomer,
    settings: NewcomerSettings = "{}",
    lr: Annotated[float | None, typer.Option(help="Learning rate. [default: the class's own, or 0.01]")] = None,
) -> None:
    """Try a class of optimizers on a tiny problem, in a process of its own; print what it does. Status 1: unusable."""
    from optrepro.newcomers import conformance, target

    report = conformance.examine(target.parse(optimizer), _mapping(settings, "settings"), lr)
    typer.echo(conformance.table(report))
    if report.failure is not None:
        raise typer.Exit(1)


@app.command()
def judge(
    optimizer: Newcomer,
    on: Annotated[str, typer.Option(help="Tasks, with commas between them.")] = "functions,images,language",
    learning_rates: Annotated[
        str | None, typer.Option(help="Learning rates to tune over, with commas. [default: each study's own]")
    ] = None,
    settings: NewcomerSettings = "{}",
    budget: Annotated[int, typer.Option(min=1, max=4, help="How many times everybody's tuning it gets.")] = 1,
    scale: Scale = layout.PUBLISHED,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs at the same time. [default: one for each core]")
    ] = None,
    add: Annotated[
        Path | None, typer.Option(help="Scale file to be written with its row, as config/mine.yaml.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. [default: judgements/ and the name of the class]")] = None,
) -> None:
    """Compare a class of optimizers with the published rows: run its rows alone, then print where it stands."""
    from optrepro.newcomers import addition, judgement, page, target

    if add is not None:
        addition.check(add, budget)
    chosen = target.parse(optimizer)
    rates = None if learning_rates is None else _rates(learning_rates)
    names = [name.strip() for name in on.split(",")]
    found = judgement.judge(
        chosen,
        names,
        _mapping(settings, "settings"),
        rates,
        budget,
        scale,
        workers or _cores(),
        lambda line: typer.echo(line, err=True),
    )
    typer.echo(judgement.text(found))
    folder = out or judgement.FOLDER / chosen.slug
    for path in [*judgement.write(found, folder), page.write(found, folder / "judgement.html")]:
        typer.echo(path, err=True)
    if add is not None:
        typer.echo(addition.write(found, add, DEFAULT.name), err=True)


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


def _studies(settings: Config, names: list[str] | None) -> list[str]:
    """The studies of these names, or all. Raises: ConfigError for a name that the config does not have."""
    if unknown := [name for name in names or () if name not in settings.studies]:
        raise ConfigError(f"study = {unknown[0]!r} is not one of {sorted(settings.studies)}")
    return list(names or settings.studies)


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rates(text: str) -> list[float]:
    """The learning rates that an option lists. Raises: ConfigError if they are not distinct positive numbers."""
    found = parse(f"[{text}]", "--learning-rates")
    numbers = all(isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0 for rate in found)
    if not found or not numbers or len(set(found)) < len(found):
        raise ConfigError(f"learning_rates = {shortened(text)} is not allowed; they are distinct numbers above 0")
    return [float(rate) for rate in found]


def _mapping(text: str, option: str) -> dict[str, Any]:
    """The mapping that an option holds. Raises: ConfigError if it is none."""
    found = parse(text, f"--{option}")
    if not isinstance(found, dict):
        raise ConfigError(
            f"{option} = {shortened(text)} is not allowed; it is a mapping, as '{{\"betas\": [0.9, 0.99]}}'"
        )
    return found


def _is_scale(path: Path) -> bool:
    """Whether a file of the config folder is a scale, and not the list of exhibits that all papers share."""
    found = yaml.safe_load(path.read_text())
    return isinstance(found, dict) and "scale" in found


def _duration(seconds: float) -> str:
    """A time in the largest fitting unit, such as 12 s, 3 min or 1.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _entry(entries: dict[str, T], name: str, kind: str) -> T:
    if name not in entries:
        raise ConfigError(f"{kind} = {name!r} is not one of {sorted(entries)}")
    return entries[name]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def entry_point() -> None:
    """Run the program; errors that the user can correct, as files and disks, are a line without a traceback."""
    try:
        app()
    except (ConfigError, DamagedFileError, FetchError, runtable.MissingRunsError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    entry_point()
