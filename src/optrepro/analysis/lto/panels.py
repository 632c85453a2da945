"""Optimizers that were learned or tuned on one objective, compared on panels of other objectives, and meta-training.

A panel is an objective with its data set; ``fig1-cifar10`` belongs to figure 1. In a panel all optimizers have the same
initial points and minibatches, so comparisons are paired over the repetitions. There are two measures, lower is better:

- the area: the mean of the true objective over the iterations, by the trapezoid rule over the recorded ones;
- the final objective.

Objectives are limited to twice the initial value, so every run has an area. A run diverges if it ends above its start,
or is not finite at its end; it overshoots if it is above twice its start on the way, and recovers. A variant is a
learned optimizer trained in another way. It is ranked in place of the shipped optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import integrate

from optrepro.analysis import columns, rankings
from optrepro.analysis.intervals import holm, sign_flip_test
from optrepro.analysis.results import StudyResults, once_per_study
from optrepro.conventions import ALPHA, PSD

VARIANTS = {"psd-trained": PSD, "psd-bregman": PSD, "psd-paper": PSD, "imitation": PSD, "l2l-trained": "l2l"}
CLASSIC = ("first-order", "quasi-newton")  # groups of optimizers that are tuned, not learned
MEASURES = ("area", "final")
VERDICTS = ("best", "equivalent", "tied", "worse")
LIMIT = 2.0  # multiple of the initial objective to which objectives are limited, and above which a run overshoots
MARGIN = 0.01  # share of the rival's mean by which the policy may be worse to be equivalent (chosen)
RESOLUTION = float(np.finfo(np.float32).eps)  # objectives are computed in float32; in ratios, none is less than this
TUNING, VALIDATION = "tuning", "meta-validation"
LOGGED = ("area", "final", "score", "guiding", "policy", "mismatch", "kl", "loss")


# --- The panels of the figures ---------------------------------------------------------------------------------------


def curves(study: StudyResults) -> pd.DataFrame:
    """True objective during the runs: one row per panel, optimizer and recorded iteration.

    Columns: panel, figure, dataset, optimizer, label, group, step; mean with ``_low`` and ``_high`` (95 %) and std,
    over the repetitions that do not diverge (over all if all diverge); repetitions (their number), lost (how many of
    them diverge) and overshot.
    """
    runs, rows = _objectives(study, "test"), []
    outcomes: Any = _outcomes(_unlimited(study, "test"))
    for panel, key in _cells(study, runs):
        own, outcome = runs.loc[(panel, key)].unstack("seed"), outcomes.loc[(panel, key)]
        whole = own.loc[:, ~outcome.diverged] if not outcome.diverged.all() else own
        counts = {"repetitions": own.shape[1], "lost": outcome.diverged.sum(), "overshot": outcome.overshot.sum()}
        for step, values in whole.iterrows():
            head = {**_panel(study, panel), **columns.names(study, key), "step": step}
            rows.append({**head, **columns.interval("mean", values.dropna()), "std": values.std(), **counts})
    return pd.DataFrame(rows)


def scores(study: StudyResults, figure: str | None = None) -> pd.DataFrame:
    """One row per panel and optimizer, both in the order of the config, for one figure or all (None).

    Columns: panel, figure, dataset, optimizer, label, group, learning_rate (NaN without one), repetitions, diverged and
    overshot (numbers of runs), and for both measures, ``area`` and ``final``:

    - the mean over the repetitions with ``_low`` and ``_high`` (95 %), and ``_relative``: divided by that of the
      classic optimizer with the lowest mean in the panel;
    - ``_rank`` (1 is best) among the optimizers of the config, with a variant in place of the optimizer it varies;
    - ``_rival``: the other optimizer with the lowest mean, a choice by the compared values that favours it;
    - ``_difference`` to the rival, paired, with ``_low`` and ``_high``; ``_p`` of the sign-flip test, ``_p_holm``
      adjusted for the panels of all figures, and ``_verdict``: "best" if it is lower and ``_p_holm`` below 0.05; else
      "equivalent" if the 95 % interval of the difference lies below `MARGIN` times the rival's mean; else "worse" if
      ``_p_holm`` is below 0.05; else "tied".
    """
    table = _compared(study)
    return table if figure is None else table[table.figure == figure].reset_index(drop=True)


def areas(study: StudyResults) -> pd.DataFrame:
    """Area of each test run: rows are panels and repetitions, columns optimizers."""
    return _areas(_objectives(study, "test")).unstack("optimizer")


def finals(study: StudyResults) -> pd.DataFrame:
    """Final objective of each test run: rows are panels and repetitions, columns optimizers."""
    return _finals(_objectives(study, "test")).unstack("optimizer")


def panels(study: StudyResults) -> dict[str, str]:
    """The panels that have results, in the order of the config, with the titles of their data sets."""
    present = columns.in_order(study.facts.settings["panels"], study.runs.workload[study.runs.role == "test"])
    return {panel: _panel(study, panel)["dataset"] for panel in present}


def summary(study: StudyResults) -> pd.DataFrame:
    """One row per optimizer over all panels, in the order of the config.

    Columns: optimizer, label, group, panels, lost (runs that diverge), overshot, and for both measures: ``_rank``
    (average), ``_best``, ``_equivalent``, ``_tied`` and ``_worse`` (panels by verdict), ``_behind`` (panels in which it
    is worse without correction), ``_relative`` (geometric mean over the panels), ``_wins``, ``_ties``, ``_losses``
    (panels in which the policy's mean is lower, equal, higher), and ``_p`` of Wilcoxon's test against the policy on
    log10 of the means over the panels, Holm-corrected over the optimizers. friedman_p is that of Friedman's test on
    areas, without variants.
    """
    table = scores(study)
    means = {measure: table.pivot(index="panel", columns="optimizer", values=measure) for measure in MEASURES}
    rows = []
    for key in table.optimizer.unique():
        own = table[table.optimizer == key]
        row: dict[str, Any] = {**columns.names(study, key), "panels": len(own)}
        row |= {"lost": own.diverged.sum(), "overshot": own.overshot.sum()}
        for measure in MEASURES:
            verdicts = own[f"{measure}_verdict"]
            behind = (own[f"{measure}_difference"] > 0) & (own[f"{measure}_p"] < ALPHA)
            row |= {f"{measure}_rank": own[f"{measure}_rank"].mean(), f"{measure}_behind": behind.sum()}
            row |= {f"{measure}_{verdict}": (verdicts == verdict).sum() for verdict in VERDICTS}
            row[f"{measure}_relative"] = np.exp(np.log(own[f"{measure}_relative"]).mean())
            row |= _record(means[measure], key, measure)
        rows.append(row)
    found = pd.DataFrame(rows)
    for measure in MEASURES:
        found[f"{measure}_p"] = holm(found[f"{measure}_p"].tolist())
    areas = means["area"][[key for key in means["area"] if key not in VARIANTS]].dropna()
    return found.assign(friedman_p=rankings.friedman(areas).p)


def tuned(study: StudyResults) -> pd.DataFrame:
    """Result of tuning each optimizer on the meta-training objective, in the order of the config.

    Columns: optimizer, label, group, learning_rate (NaN if it is not tuned), lowest and highest (ends of the grid),
    interior (whether the rate is neither of them), area (mean over the tuning runs at that rate), rates (their number),
    tuning_diverged (runs, at any rate).
    """
    rates = study.runs[study.runs.role == "test"].groupby("optimizer").learning_rate.first()
    area = _areas(_objectives(study, "tune")).groupby(["optimizer", "learning_rate"], dropna=False).mean()
    diverged = _outcomes(_unlimited(study, "tune")).diverged.groupby("optimizer").sum()
    rows = []
    for key in columns.in_order(study.facts.optimizers, rates.index):
        own = (
            area.loc[[key]].droplevel("optimizer") if key in area.index.unique("optimizer") else pd.Series(dtype=float)
        )
        grid, rate = own.index.dropna(), rates[key]
        found = own[grid == rate] if len(grid) else own
        rows.append(
            {
                **columns.names(study, key),
                "learning_rate": rate,
                "lowest": grid.min() if len(grid) else np.nan,
                "highest": grid.max() if len(grid) else np.nan,
                "interior": bool(len(grid) and grid.min() < rate < grid.max()),
                "area": found.iloc[0] if len(found) else np.nan,
                "rates": len(grid),
                "tuning_diverged": int(diverged.get(key, 0)),
            }
        )
    return pd.DataFrame(rows)


def progress(study: StudyResults) -> pd.DataFrame:
    """Decrease of the objective beyond the trained horizon, in panels with more iterations than that.

    Columns: panel, figure, dataset, optimizer, label, group, trained and end (iterations), at_trained and at_end (mean
    objectives), and their paired difference `progress` with ``_low`` and ``_high``, positive if the objective falls.
    """
    runs, horizon = _objectives(study, "test"), study.facts.settings["tuning"]["steps"]
    rows = []
    for panel, key in _cells(study, runs):
        own = runs.loc[(panel, key)].unstack("seed")
        trained, end = own.index[own.index >= horizon].min(), own.index.max()
        if end <= horizon:
            continue
        head = {**_panel(study, panel), **columns.names(study, key), "trained": trained, "end": end}
        means = {"at_trained": own.loc[trained].mean(), "at_end": own.loc[end].mean()}
        rows.append({**head, **means, **columns.interval("progress", (own.loc[trained] - own.loc[end]).dropna())})
    return pd.DataFrame(rows)


# --- Robustness ------------------------------------------------------------------------------------------------------


def robustness(study: StudyResults) -> pd.DataFrame:
    """Areas for other values of one property of the trained objective: batch size, width, or horizon.

    Panels are named by the property and its value: ``batch-10``. Different horizons come from one long run, by its area
    up to each multiple of the trained horizon. Columns: varied ("batch", "width", "horizon"), value, trained (the value
    of the tuning objective), optimizer, label, group, repetitions, diverged and overshot (by the horizon); area with
    ``_low`` and ``_high``; reference, the classic optimizer with the lowest mean area for the value, and `relative`,
    the mean of the paired ratios of the area to that of the reference, with ``_low`` and ``_high``.
    """
    runs, settings = _objectives(study, "test"), study.facts.settings["tuning"]
    trained = {"batch": settings["batch_size"], "width": settings["hidden"], "horizon": settings["steps"]}
    tables = []
    for panel in dict.fromkeys(panel for panel, _ in _cells(study, runs)):
        varied, value = panel.rsplit("-", 1)
        multiples = int(value) // trained["horizon"] if varied == "horizon" else 1
        for multiple in range(1, multiples + 1):
            until = multiple * trained["horizon"] if varied == "horizon" else None
            table = _relative(study, runs, panel, until)
            table.insert(0, "varied", varied)
            table.insert(1, "value", until or int(value))
            tables.append(table.assign(trained=trained[varied]))
    return pd.concat(tables, ignore_index=True)


def _relative(study: StudyResults, runs: pd.Series, panel: str, until: int | None) -> pd.DataFrame:
    """The rows of `robustness` for one panel, up to an iteration (None: all)."""
    own = runs.xs(panel, level="workload", drop_level=False)
    areas = _areas(own, until).unstack("optimizer")
    unlimited = _unlimited(study, "test").xs(panel, level="workload", drop_level=False)
    by_then = unlimited[unlimited.index.get_level_values("step") <= (until or np.inf)]
    outcomes: Any = _outcomes(by_then).groupby("optimizer").sum()
    classic = [key for key in areas if study.facts.optimizers[str(key)]["group"] in CLASSIC]
    reference = areas[classic].mean().idxmin() if classic else None
    rows = []
    for key in columns.in_order(study.facts.optimizers, areas):
        ratio = (areas[key] / areas[reference]).dropna() if reference else pd.Series(dtype=float)
        counts = {"repetitions": areas[key].count(), **outcomes.loc[key].to_dict(), "reference": reference}
        rows.append(
            {
                **columns.names(study, key),
                **counts,
                **columns.interval("area", areas[key].dropna()),
                **columns.interval("relative", ratio),
            }
        )
    return pd.DataFrame(rows)


# --- Meta-training ---------------------------------------------------------------------------------------------------


def metatraining(*studies: StudyResults) -> pd.DataFrame:
    """Records of meta-training: study, optimizer, label, group, method, seed, metric (one of `LOGGED`), step, value.

    `step` is the iteration of the training; `area` and `final` are those of the validation problems.
    """
    tables = []
    for study in studies:
        runs = study.runs[(study.runs.workload == VALIDATION) & study.runs.metric.isin(LOGGED)]
        learners = study.facts.settings["learners"]
        for key in (key for key in learners if key in set(runs.optimizer)):
            own = runs[runs.optimizer == key][["optimizer", "seed", "metric", "step", "value"]]
            entry = learners[key]
            words = {"study": study.facts.study, "label": entry["label"], "group": entry.get("group", "")}
            tables.append(own.assign(**words, method=entry["method"]))
    order = ["study", "optimizer", "label", "group", "method", "seed", "metric", "step", "value"]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=order)
    return table[order]


def ablation(*studies: StudyResults) -> pd.DataFrame:
    """Each learner on the validation problems: before its training, with the weights that are kept, and at the end.

    Columns: problem (the validation objective, which differs between studies), study, optimizer, label, group, method,
    seeds, iterations; kept (iteration with the best score, or without one the lowest area, whose weights are kept);
    area (at that iteration) with ``_low`` and ``_high`` (95 % over the seeds, NaN for one), first and last (area at the
    first and the last validation), final (objective at the end of the horizon, at the kept iteration). All are means
    over the seeds. An area that is not finite is replaced by the worst finite one of its run.
    """
    problems = {study.facts.study: _problem(study.facts.settings["objective"]) for study in studies}
    logged = metatraining(*studies)
    rows = []
    for _, own in logged.groupby(["study", "optimizer"], sort=False):
        head = {name: own[name].iloc[0] for name in ("study", "optimizer", "label", "group", "method")}
        head = {"problem": problems[head["study"]], **head}
        kept = pd.DataFrame([_kept(seed) for _, seed in own.groupby("seed")])
        head |= {"seeds": len(kept)} | {
            name: kept[name].mean() for name in ("iterations", "kept", "first", "last", "final")
        }
        rows.append({**head, **columns.interval("area", kept.area)})
    return pd.DataFrame(rows)


def _problem(objective: Mapping[str, Any]) -> str:
    """The description of an objective."""
    return f"{objective['inputs']} inputs, {objective['hidden']} hidden units, {objective['steps']} iterations"


def _kept(logged: pd.DataFrame) -> dict[str, float]:
    """The columns of `ablation` for one training run."""
    values = logged[logged.metric.isin((*MEASURES, "score"))].pivot(index="step", columns="metric", values="value")
    values = values.where(np.isfinite(values))
    area = values.area.fillna(values.area.max())
    best: Any = values.get("score", area).idxmin()
    return {
        "iterations": float(area.index.max()),
        "kept": float(best),
        "area": area[best],
        "first": area.iloc[0],
        "last": area.iloc[-1],
        "final": values.final.get(best, np.nan) if "final" in values else np.nan,
    }


# --- Reading ---------------------------------------------------------------------------------------------------------


@once_per_study
def _objectives(study: StudyResults, role: str) -> pd.Series:
    """The objective, at most `LIMIT` times its initial value, indexed as `_unlimited`."""
    objectives = _unlimited(study, role)
    return objectives.clip(upper=LIMIT * _grouped(objectives).transform("first"))


@once_per_study
def _unlimited(study: StudyResults, role: str) -> pd.Series:
    """The objective by workload, optimizer, learning rate, seed, step; infinite where it is not a number.

    The learning rate is a level of the index only for tuning runs.
    """
    rows = study.runs[(study.runs.role == role) & (study.runs.metric == "objective")]
    rate = ["learning_rate"] if role == "tune" else []
    by = ["workload", "optimizer", *rate, "seed", "step"]
    return rows.set_index(by).value.fillna(np.inf).sort_index()


def _grouped(objectives: pd.Series) -> Any:
    """Curves by run."""
    by = [name for name in objectives.index.names if name != "step"]
    return objectives.groupby(by, observed=True, dropna=False)


def _outcomes(objectives: pd.Series) -> pd.DataFrame:
    """Which runs diverge and which overshoot, from curves that are not limited; columns diverged and overshot."""
    first, last, highest = (_grouped(objectives).agg(which) for which in ("first", "last", "max"))
    diverged = ~np.isfinite(last) | (last > first)
    return pd.DataFrame({"diverged": diverged, "overshot": ~diverged & (highest > LIMIT * first)})


def _areas(objectives: pd.Series, until: int | None = None) -> pd.Series:
    """Mean of each curve over its iterations, up to `until` (None: all); indexed like the curves, without step."""
    return _grouped(objectives).agg(_area, until=until)  # type: ignore[no-any-return]


def _area(curve: pd.Series, until: int | None) -> float:
    """Mean over the iterations by the trapezoid rule, with linear interpolation between recorded iterations."""
    steps, values = curve.index.get_level_values("step").to_numpy(), curve.to_numpy()
    if until is not None:
        values = np.append(values[steps < until], np.interp(until, steps, values))
        steps = np.append(steps[steps < until], until)
    return float(integrate.trapezoid(values, steps) / (steps[-1] - steps[0]))


def _finals(objectives: pd.Series) -> pd.Series:
    """Last value of each curve."""
    return _grouped(objectives).last()  # type: ignore[no-any-return]


def _cells(study: StudyResults, runs: pd.Series) -> list[tuple[str, str]]:
    """Pairs of a panel and an optimizer that have results, in the order of the config."""
    there = set(zip(runs.index.get_level_values("workload"), runs.index.get_level_values("optimizer"), strict=True))
    return [(p, k) for p in study.facts.settings["panels"] for k in study.facts.optimizers if (p, k) in there]


def _panel(study: StudyResults, panel: str) -> dict[str, str]:
    """Columns that describe a panel: panel, figure, dataset (title)."""
    figure, _, name = panel.partition("-")
    return {"panel": panel, "figure": figure, "dataset": study.facts.datasets.get(panel, name)}


# --- Statistics ------------------------------------------------------------------------------------------------------


@once_per_study
def _compared(study: StudyResults) -> pd.DataFrame:
    runs = _objectives(study, "test")
    values = {"area": _areas(runs), "final": _finals(runs)}
    rates = study.runs[study.runs.role == "test"].groupby("optimizer").learning_rate.first()
    outcomes: Any = _outcomes(_unlimited(study, "test")).groupby(["workload", "optimizer"]).sum()
    rows = []
    wide: dict[str, dict[Any, pd.DataFrame]] = {
        measure: {panel: own.dropna(axis=1, how="all") for panel, own in _by_panel(column)}
        for measure, column in values.items()
    }
    for panel, key in _cells(study, runs):
        row: dict[str, Any] = {**_panel(study, panel), **columns.names(study, key), "learning_rate": rates[key]}
        row |= {"repetitions": wide["area"][panel][key].count(), **outcomes.loc[(panel, key)].to_dict()}
        for measure, by_panel in wide.items():
            row |= _against_rivals(study, by_panel[panel], key, measure)
        rows.append(row)
    table = pd.DataFrame(rows)
    for measure in MEASURES:
        p = table.groupby("optimizer")[f"{measure}_p"].transform(lambda own: holm(own.tolist()))
        table[f"{measure}_p_holm"] = p
        difference = table[f"{measure}_difference"]
        margin = MARGIN * (table[measure] - difference)  # of the rival's mean
        kinds = [
            ("best", (p < ALPHA) & (difference < 0)),
            ("equivalent", table[f"{measure}_difference_high"] < margin),
            ("worse", (p < ALPHA) & (difference > 0)),
        ]
        table[f"{measure}_verdict"] = np.select([holds for _, holds in kinds], [name for name, _ in kinds], "tied")
    return table


def _by_panel(values: pd.Series) -> Iterator[tuple[str, pd.DataFrame]]:
    """The values of each panel, seeds by optimizers."""
    for panel, own in values.unstack("optimizer").groupby(level="workload", observed=True):
        yield str(panel), own.droplevel("workload")


def _against_rivals(study: StudyResults, values: pd.DataFrame, key: str, measure: str) -> dict[str, Any]:
    """The columns of `scores` for one measure and panel; `values` are seeds by optimizers."""
    means = {str(other): mean for other, mean in values.mean().items()}
    rivals = {k: mean for k, mean in means.items() if k not in VARIANTS and k != VARIANTS.get(key, key)}
    classic = [mean for k, mean in means.items() if study.facts.optimizers[k]["group"] in CLASSIC]
    rival = min(rivals, key=lambda other: rivals[other]) if rivals else None
    difference = (values[key] - values[rival]).dropna() if rival else pd.Series(dtype=float)
    return {
        **columns.interval(measure, values[key].dropna()),
        f"{measure}_relative": np.maximum(means[key], RESOLUTION)
        / np.maximum(min(classic, default=np.nan), RESOLUTION),
        f"{measure}_rank": 1 + sum(mean < means[key] for mean in rivals.values()),
        f"{measure}_rival": rival,
        **columns.interval(f"{measure}_difference", difference),
        f"{measure}_p": sign_flip_test(difference),
    }


def _record(means: pd.DataFrame, key: str, measure: str) -> dict[str, Any]:
    """Panels in which the policy is better than, equal to and worse than an optimizer, and Wilcoxon's p.

    All values are NaN for the policy itself.
    """
    names = [f"{measure}_{name}" for name in ("wins", "ties", "losses", "p")]
    if key == PSD or PSD not in means:
        return dict.fromkeys(names, np.nan)
    both = np.log10(means[[key, PSD]].dropna().clip(lower=RESOLUTION))
    difference = both[key] - both[PSD]
    p = rankings.wilcoxon(difference)[1] if len(both) else np.nan
    return dict(zip(names, (*columns.record(difference).values(), p), strict=True))
