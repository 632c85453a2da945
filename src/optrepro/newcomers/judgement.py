"""Judges a newcomer: its runs beside the published rows, a check of this machine, and what it all comes to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optrepro import layout
from optrepro.analysis import leaderboard
from optrepro.analysis.intervals import mean_interval
from optrepro.analysis.results import StudyResults, read_study
from optrepro.experiments import work
from optrepro.newcomers import conformance, standing, tasks
from optrepro.newcomers.conformance import Report
from optrepro.newcomers.standing import Standing
from optrepro.newcomers.target import Target
from optrepro.newcomers.tasks import KEY, OVERHEAD, Plan, Published, Task
from optrepro.settings import ConfigError

FOLDER = Path("judgements")
REFERENCE = "foreach"  # the row of torch's AdamW among the measured ones
QUIET = 2.0  # chosen: times that vary more between turns were measured beside other work
SAME = ["workload", "role", "learning_rate", "seed", "step", "metric"]  # what a value of two runs agrees in


@dataclass(frozen=True)
class Judgement:
    """All that was found out about a newcomer.

    Attributes:
        target: the class.
        report: what it does on a tiny problem.
        plan: what was run.
        standings: its place by the name of the task.
        machine: how the row that was run again compares with the published one, by the name of the task.
        cost: one row per network: network, step (median ratio of the time of a step to that of torch's AdamW,
            NaN where the times show other work),
            memory (ratio of the bytes of state), spread (largest time of a step of AdamW over the smallest one, which
            is near 1 on a quiet machine); empty if it was not measured.
        left_out: why other tasks have no standing, by name.
    """

    target: Target
    report: Report
    plan: Plan
    standings: Mapping[str, Standing]
    machine: Mapping[str, str]
    cost: pd.DataFrame
    left_out: Mapping[str, str]


def judge(
    target: Target,
    names: Sequence[str] = tasks.DEFAULT,
    settings: Mapping[str, Any] | None = None,
    rates: Sequence[float] | None = None,
    budget: int = 1,
    scale: str = layout.PUBLISHED,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> Judgement:
    """Judge a class.

    Args:
        target: the class.
        names: tasks, of `tasks.TASKS`.
        settings: keyword arguments of the class, without ``lr``.
        rates: learning rates to tune over; None: each study's own.
        budget: how many times everybody's tuning it gets.
        scale: whose rows it is compared with.
        workers: number of jobs at the same time.
        report: called with one line for each thing that happens.

    Raises: ConfigError for a class that cannot be used, a task that does not exist, or rows that are not there.
    """
    target.make_importable()
    middle = sorted(rates)[len(rates) // 2] if rates else None
    found = conformance.examine(target, settings, middle)
    if (failure := found.failure) is not None:
        raise ConfigError(f"{target.path} cannot be judged: {failure.check}: {failure.meaning}")
    plan = tasks.plan(target, names, settings or {}, rates, budget, scale, found.refused)
    outcome = work.work(plan.config, list(plan.config.studies), workers, report=report)
    standings, machine, left_out = {}, {}, dict(plan.left_out)
    for name, task in plan.tasks.items():
        if task.study not in outcome.collected:
            reasons = [f"{batch}: {why}" for (study, batch), why in outcome.failed.items() if study == task.study]
            left_out[name] = reasons[0] if reasons else "what it needs has failed"
            continue
        own, published = read_study(layout.tidy(plan.config.scale, task.study)), plan.published[task.study]
        standings[name] = standing.of(standing.joined(published.results, own), found.ignores_rate)
        machine[name] = _again(task, own, published)
    return Judgement(target, found, plan, standings, machine, _cost(plan, outcome.collected), left_out)


def text(judgement: Judgement) -> str:
    """The judgement as lines: each task with its place, peers and warnings; cost; machine; sentences to quote."""
    lines = []
    for name, each in judgement.standings.items():
        lines += [f"{name}: {each.study.facts.dataset or each.problems}", f"  {each.tuned}"]
        lines += [f"  rank, {each.unit}:", *(f"  {line}" for line in _scores(each)), ""]
        lines += [f"  {line}" for line in _pairs(each)]
        lines += [f"  ! {note}" for note in judgement.plan.notes.get(name, ())]
        lines += [f"  ! {warning}" for warning in each.warnings] + [""]
    for row in judgement.cost.to_dict("records"):
        step = f"a step takes {row['step']:.2f} times as long"
        if np.isnan(row["step"]):
            step = f"a step was not timed, for torch's own varied {row['spread']:.0f}-fold beside other work"
        memory = f"its state {row['memory']:.2f} times the memory"
        lines.append(f"cost on {row['network']}, beside torch's AdamW: {step}; {memory}")
    lines += [f"this machine, {name}: {found}" for name, found in judgement.machine.items()]
    for name in judgement.standings:
        study = judgement.plan.tasks[name].study
        lines.append(f"the rows beside it, {name}: {origin(judgement.plan.published[study])}")
    lines += [f"left out, {name}: {why}" for name, why in judgement.left_out.items()]
    return "\n".join([*lines, "", *(each.sentence() for each in judgement.standings.values())])


def origin(published: Published) -> str:
    """Commit, versions and machine that published rows come from, in words."""
    records = published.records.values()
    commits = sorted({str(record["git"]["commit"])[:7] for record in records})
    environments = [record["environment"] for record in records]
    torches = sorted({each["packages"].get("torch", "?") for each in environments})
    machines = sorted({f"{each['machine']}, Python {each['python']}" for each in environments})
    return f"commit {', '.join(commits)}; torch {', '.join(torches)}; {'; '.join(machines)}"


def write(judgement: Judgement, folder: Path) -> list[Path]:
    """Write the judgement as CSV and JSON; the cost, which differs from time to time, has a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = [each.scores.assign(task=name) for name, each in judgement.standings.items()]
    pairs = [each.pairs.assign(task=name) for name, each in judgement.standings.items()]
    written = []
    for name, parts in (("scores", scores), ("pairs", pairs), ("cost", [judgement.cost])):
        written.append(folder / f"{name}.csv")
        pd.concat(parts, ignore_index=True).to_csv(written[-1], index=False, lineterminator="\n")
    summary = {
        "class": judgement.target.path,
        "checks": [finding._asdict() for finding in judgement.report.findings],
        "tasks": {
            name: {
                "study": judgement.plan.tasks[name].study,
                "rank": int(each.own["rank"]),
                "of": len(each.scores),
                "score": float(each.own.score),
                "tuned": each.tuned,
                "sentence": each.sentence(),
                "warnings": [*judgement.plan.notes.get(name, ()), *each.warnings],
                "machine": judgement.machine[name],
                "published": origin(judgement.plan.published[judgement.plan.tasks[name].study]),
            }
            for name, each in judgement.standings.items()
        },
        "left_out": dict(judgement.left_out),
    }
    written.append(folder / "judgement.json")
    written[-1].write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return written


def _again(task: Task, own: StudyResults, published: Published) -> str:
    """How the row that was run again compares with the published one, in words."""
    values = [
        runs[(runs.optimizer == task.again) & runs.metric.ne("surface")].set_index(SAME).value
        for runs in (published.results.runs, own.runs)
    ]
    both = pd.concat(values, axis=1, keys=["published", "here"], join="inner")
    label = published.results.facts.label(task.again)
    if both.empty:
        return f"{label}, run again, has no value in common with the earlier one"
    equal = int((both.published == both.here).sum())
    if equal == len(both) == len(values[0]) == len(values[1]):
        return f"{label}, run again, gives all {len(both):,} earlier values"
    here, there = (leaderboard.values(study)[task.again].dropna() for study in (own, published.results))
    mean, low, high = mean_interval(there)
    verdict = "inside" if low <= here.mean() <= high else "OUTSIDE"
    return (
        f"{label}, run again, gives {equal:,} of {len(both):,} earlier values; its score is {here.mean():.4g}, "
        f"earlier {mean:.4g} [{low:.4g}, {high:.4g}], {verdict} that interval"
    )


def _cost(plan: Plan, collected: Sequence[str]) -> pd.DataFrame:
    """The column `cost` of a judgement."""
    names = ["network", "step", "memory", "spread"]
    if OVERHEAD not in plan.config.studies or OVERHEAD not in collected:
        return pd.DataFrame(columns=names)
    runs = read_study(layout.tidy(plan.config.scale, OVERHEAD)).runs
    runs = runs.assign(network=runs.workload.str.partition("/")[0])
    reference = runs[(runs.optimizer == REFERENCE) & (runs.metric == "step_seconds")].groupby("network").value
    own = runs[runs.optimizer == KEY]
    medians = own.pivot_table(index="network", columns="metric", values="value", aggfunc="median", sort=False)
    table = medians.rename(columns={"step_ratio": "step", "state_ratio": "memory"})
    table["spread"] = reference.max() / reference.min()
    table["step"] = table.step.where(table.spread <= QUIET)
    return table.reset_index()[names]


def _scores(each: Standing) -> list[str]:
    width = max(map(len, each.scores.label))
    return [
        f"{row['rank']:4.0f}  {row['label']:{width}}  {_interval(row, 'score')}"
        + ("  <" if row["optimizer"] == KEY else "")
        for _, row in each.scores.iterrows()
    ]


def _pairs(each: Standing) -> list[str]:
    width = max(map(len, each.pairs.label))
    lines = [f"{'beside':{width}}  wins ties losses  {'difference':26}  p (Holm)"]
    for _, row in each.pairs.iterrows():
        counts = f"{row['wins']:4} {row['ties']:4} {row['losses']:6}"
        p = "–" if np.isnan(row["p_holm"]) else f"{row['p_holm']:.3f}"
        lines.append(f"{row['label']:{width}}  {counts}  {_interval(row, 'difference'):26}  {p}")
    return lines


def _interval(row: pd.Series, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.4g}" + ("" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]")
