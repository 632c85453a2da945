"""Optimizers compared over paired seeds, each at its tuned learning rate: scores, curves, choices and the sweep.

What is compared is the study's criterion: accuracy, or loss. Differences are signed so that above 0 is better: accuracy
gained, or loss saved.

A diverged run counts with accuracy 0, as in tuning, and is left out of mean losses and curves; how many diverged is a
column of its own. Intervals are Student's t, at 95 %, over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from optrepro.analysis.intervals import Interval, holm, mean_interval, sign_flip_test
from optrepro.analysis.results import StudyResults
from optrepro.conventions import ALPHA

FAILED_ACCURACY = 0.0
MEASURES = ("test_accuracy", "test_loss", "exact_match")
SIGNS = {"accuracy": 1, "loss": -1}  # of a criterion: whether more of it is better
TRAINS = 0.5  # share of the sweep's best probability of a right answer, from which on a learning rate trains at all
HELD = ("within", "above", "best")  # verdicts of `rates` that are not below the best fixed candidate
CONTENDERS = ("fixed", "dynamic", "control")  # groups that share the grid of learning rates; peers may have their own
BLIND = ("random", "mean")  # controls that look at nothing
MEMORY = ("momentum", "betas")  # settings that hold a candidate, or the candidates

# Candidates of the selecting optimizers where their settings name none.
_CANDIDATES = {
    "momentum": (0.5, 0.9, 0.99),
    "betas": ((0.5, 0.999), (0.9, 0.999), (0.99, 0.999)),
}


def scores(study: StudyResults) -> pd.DataFrame:
    """One row per optimizer, in the order of the config.

    Columns: optimizer, label, group, value (momentum or beta1 of a fixed candidate); learning_rate, on_boundary
    (whether the tuned rate is an end of the grid, so that a better one may lie outside), validation_accuracy or
    validation_loss (tuning runs at that rate); seeds, diverged, tuning_runs, tuning_diverged (counts of runs);
    test_accuracy and test_loss, and exact_match where questions were asked, with ``_low`` and ``_high``; rank (by the
    study's criterion on test data, 1 is best); smallest (share of the choices that the smallest candidate got, NaN
    without choices); and the paired difference in that criterion to two references:

    - difference, _low, _high, p, p_holm: to `reference`, the fixed candidate that is best on validation data in the
      tuning runs, which is what a manual sweep would have picked;
    - top_difference, _low, _high: to `top`, the fixed candidate that is best on average on test data: a choice that
      looks at the test set, so it favours the fixed candidates.

    p is the exact sign-flip test's, p_holm adjusts it for all comparisons with the reference; NaN throughout where the
    seeds are too few for that many comparisons: the least p that n pairs can give is 2 / 2^n.
    """
    measures = {name: final(study, name) for name in MEASURES if (study.runs.metric == name).any()}
    compared = test_scores(study)
    criterion = study.facts.criterion
    tuned = tuned_cells(study)
    fixed = [key for key in tuned.index if study.facts.optimizers[key]["group"] == "fixed"]
    validation = SIGNS[criterion] * tuned[f"validation_{criterion}"]
    reference = str(validation[fixed].idxmax()) if fixed else None
    top = str(compared[fixed].mean().idxmax()) if fixed else None
    rows = []
    for key in tuned.index:
        difference = paired_difference(compared, key, reference)
        rows.append(
            {
                **_names(study, key),
                **tuned.loc[key],
                "seeds": compared[key].count(),
                **_measured(measures, key),
                "reference": reference,
                **_interval_columns("difference", difference),
                "p": sign_flip_test(difference),
                "top": top,
                **_interval_columns("top_difference", paired_difference(compared, key, top)),
            }
        )
    table = pd.DataFrame(rows)
    attainable = table.p.count() * 2.0 ** (1 - table.seeds.max())
    table["p_holm"] = holm(table.p.tolist()) if attainable <= ALPHA else np.nan
    table["rank"] = table[f"test_{criterion}"].rank(ascending=criterion == "loss", method="min")
    table["smallest"] = table.optimizer.map(_smallest_shares(study)).astype(float)
    table["tuning_runs"] = table.optimizer.map(_tuning_runs(study)).fillna(0).astype(int)
    for role, column in (("test", "diverged"), ("tune", "tuning_diverged")):
        table[column] = table.optimizer.map(_diverged(study, role).groupby("optimizer").sum()).fillna(0).astype(int)
    return table


def curves(study: StudyResults) -> pd.DataFrame:
    """Mean and standard deviation over the test seeds: optimizer, metric, step, mean, std, seeds.

    A run that diverged is in no point of its curve.
    """
    runs = study.runs[(study.runs.role == "test") & ~study.runs.metric.str.startswith("chosen")]
    diverged = runs[runs.metric == "diverged"].run
    whole = runs[~runs.run.isin(diverged)]
    grouped = whole.groupby(["optimizer", "metric", "step"], sort=False, observed=True).value
    return grouped.agg(mean="mean", std="std", seeds="count").reset_index()


def choices(study: StudyResults) -> pd.DataFrame:
    """Which candidate was taken when: optimizer, candidate, step, share, overall.

    `share` is the share of choices since the evaluation before `step`, `overall` the share over the whole training,
    both over all test seeds (and parameter tensors, where each chooses for itself).
    """
    runs = study.runs[(study.runs.role == "test") & study.runs.metric.str.startswith("chosen")]
    tables = [
        _shares(runs[runs.optimizer == key], entry).assign(optimizer=key)
        for key, entry in study.facts.optimizers.items()
        if key in set(runs.optimizer)
    ]
    columns = ["optimizer", "candidate", "step", "share", "overall"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def overall_shares(study: StudyResults, optimizer: str) -> pd.Series:
    """The share of choices that each candidate got over the whole training, by candidate.

    Raises: KeyError if the optimizer has logged no choices.
    """
    table = choices(study)
    if optimizer not in set(table.optimizer):
        raise KeyError(optimizer)
    return table[table.optimizer == optimizer].drop_duplicates("candidate").set_index("candidate").overall


def sweep(study: StudyResults) -> pd.DataFrame:
    """The tuning runs as a table, one row per optimizer and learning rate.

    Columns: optimizer, label, group, value, learning_rate, validation_accuracy (mean at the last step, a diverged run
    counted as 0) with ``_low`` and ``_high``, seeds, tuning_diverged, tuned (whether it is the optimizer's best rate).
    """
    accuracy = tuning_accuracy(study)
    diverged = _diverged(study, "tune")
    rows = []
    for key in (key for key in study.facts.optimizers if key in accuracy):
        own = accuracy[[key]].droplevel(0, axis=1).dropna(axis=1, how="all")
        for rate in own:
            rows.append(
                {
                    **_names(study, key),
                    "learning_rate": rate,
                    **_interval_columns("validation_accuracy", own[rate].dropna()),
                    "seeds": own[rate].count(),
                    "tuning_diverged": int(diverged.get((key, rate), 0)),
                    "tuned": rate == own.mean().idxmax(),
                }
            )
    return pd.DataFrame(rows)


def rates(*studies: StudyResults) -> pd.DataFrame:
    """Every candidate, rule and control at every learning rate of the sweep, against the fixed candidate best there.

    A row per study, optimizer and learning rate: study, criterion, optimizer, rule, label, group, value, learning_rate;
    best (the fixed candidate with the best validation score at that rate), trains; difference, _low, _high (paired over
    the tuning seeds, on validation data); pairs, failed (diverged runs); and the verdict: "best" of that candidate
    itself, "above" or "below" where the interval lies wholly on that side of 0, "within" where it holds 0, "open"
    without an interval. With loss as criterion, where a diverged run has no difference, one of them makes it "below".
    `held`: whether the verdict is "within", "above" or "best".
    `inside`: whether the mean is in the best fixed candidate's own 95 % interval over the seeds, or better than that.
    Both are missing where that candidate has no interval, for want of seeds or as one of its runs diverged.
    `tells`: whether a control of BLIND is not inside. Where both are, to be inside says nothing for a rule.
    Pairing takes the seeds' common part out of the differences, so "below" finds smaller ones than that.

    Rows of the same `rule` are one, whatever optimizer it chooses for: the rule is the optimizer's key, and of a fixed
    candidate its memory (``momentum-90``, with Adam too).

    `trains`: the best fixed candidate trains at all at that rate, that is, none of its runs diverged and its
    probability of a right answer is at least half of that in the best cell of the fixed sweep. The probability is the
    accuracy, or exp(-loss), the geometric mean of the probability given to the right token (chosen).
    """
    return pd.concat([_rates(study) for study in studies], ignore_index=True)


def held(*studies: StudyResults) -> pd.DataFrame:
    """How many learning rates each candidate, rule and control of `rates` holds its own at, in each study.

    Only rates count at which the best fixed candidate trains at all, and has an interval: none with one tuning seed.
    Columns: study, criterion, rule, label, group; rates, and of these inside, held, above; telling (the rates that
    tell), and of these told (inside); below (text: the rates at which it is below), outside (those at which it is not
    inside); worst (the least of the mean differences; NaN if a run has none).
    """
    table = rates(*studies)
    rows = []
    for (study, criterion, rule), own in table[table.trains].groupby(["study", "criterion", "rule"], sort=False):
        memory = own.value.iloc[0]
        rows.append(
            {
                "study": study,
                "criterion": criterion,
                "rule": rule,
                "label": own.label.iloc[0] if np.isnan(memory) else f"fixed {memory:g}",
                "group": own.group.iloc[0],
                "rates": int(own.inside.count()),
                "inside": int(own.inside.sum()),
                "held": int(own.held.sum()),
                "above": int((own.verdict == "above").sum()),
                "telling": int(own.tells.sum()),
                "told": int((own.tells & own.inside).sum()),
                "below": _listed(own[own.verdict == "below"].learning_rate),
                "outside": _listed(own[~own.inside.fillna(True)].learning_rate),
                "worst": own.difference.where(own.verdict != "best", 0.0).min(skipna=False),
            }
        )
    return pd.DataFrame(rows)


def final(study: StudyResults, metric: str) -> pd.DataFrame:
    """`metric` at the last step of the test runs: seeds by optimizers. NaN: no such run, or no loss as it diverged."""
    return _last(study, "test", metric, ["optimizer"])


def test_scores(study: StudyResults) -> pd.DataFrame:
    """The study's criterion at the end of the test runs, signed so that more is better: seeds by optimizers."""
    criterion = study.facts.criterion
    return SIGNS[criterion] * final(study, f"test_{criterion}")


def tuning_scores(study: StudyResults) -> pd.DataFrame:
    """The same on validation data at the end of the tuning runs: seeds by (optimizer, learning rate ascending).

    A diverged run counts with accuracy 0, or an infinite loss.
    """
    criterion = study.facts.criterion
    return SIGNS[criterion] * _last(study, "tune", f"validation_{criterion}", ["optimizer", "learning_rate"], np.inf)


def over_rates(study: StudyResults) -> pd.DataFrame:
    """Mean of `tuning_scores` over the learning rates at which the best fixed candidate trains at all.

    Seeds by optimizers; only those that share the grid of learning rates, and in which no run diverged by loss.
    """
    table = _rates(study)
    rates = table[table.trains].learning_rate.unique()
    scores = tuning_scores(study)
    means = {key: scores[key].reindex(columns=rates).mean(axis=1, skipna=False) for key in table.optimizer.unique()}
    return pd.DataFrame(means).replace(-np.inf, np.nan)


def tuning_accuracy(study: StudyResults) -> pd.DataFrame:
    """Validation accuracy at the last step of the tuning runs: seeds by (optimizer, learning rate ascending)."""
    return _last(study, "tune", "validation_accuracy", ["optimizer", "learning_rate"])


def tuned_cells(study: StudyResults) -> pd.DataFrame:
    """By optimizer, in the order of the config: learning_rate (of the test runs), on_boundary, validation_accuracy.

    The last one is validation_loss where that is the criterion. An optimizer without test runs is left out; without
    tuning runs its last two columns say False and NaN.
    """
    criterion = study.facts.criterion
    rates = study.runs[study.runs.role == "test"].groupby("optimizer").learning_rate.first()
    swept = SIGNS[criterion] * tuning_scores(study).mean()
    cells = {}
    for key in (key for key in study.facts.optimizers if key in rates.index):
        own = swept[key].dropna() if key in swept.index.get_level_values(0) else pd.Series(dtype=float)
        cells[key] = {
            "learning_rate": rates[key],
            "on_boundary": len(own) > 1 and rates[key] in (own.index.min(), own.index.max()),
            f"validation_{criterion}": own.get(rates[key], np.nan),
        }
    return pd.DataFrame.from_dict(cells, orient="index")


def paired_difference(values: pd.DataFrame, optimizer: str, reference: str | None) -> list[float]:
    """Differences to the reference over the seeds that both have; none for the reference itself."""
    if reference is None or optimizer == reference:
        return []
    return list((values[optimizer] - values[reference]).dropna())


def candidate_of(entry: Mapping[str, Any]) -> float:
    """The momentum (or first beta) of a fixed candidate's config entry; NaN for any other optimizer."""
    if entry["group"] != "fixed":
        return np.nan
    values = [entry["settings"][name] for name in MEMORY if name in entry["settings"]]
    return _memory(values[0]) if values else np.nan


def candidates(entry: Mapping[str, Any], count: int) -> list[str]:
    """Names of the `count` candidates of a selecting optimizer: its momenta or first betas, as text.

    They come from its settings, or are the class's defaults; if their number is another, the names are indices.
    """
    kind = "betas" if "Adam" in entry["class"] else "momentum"
    values = entry["settings"].get(kind, _CANDIDATES[kind])
    names = [f"{_memory(value):g}" for value in values]
    return names if len(names) == count else [str(k) for k in range(count)]


def _memory(value: Any) -> float:
    return float(value[0] if isinstance(value, list | tuple) else value)


def _names(study: StudyResults, key: str) -> dict[str, Any]:
    entry = study.facts.optimizers[key]
    return {"optimizer": key, "label": entry["label"], "group": entry["group"], "value": candidate_of(entry)}


def _interval_columns(name: str, values: ArrayLike) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), mean_interval(values), strict=True))


def _measured(measures: Mapping[str, pd.DataFrame], key: str) -> dict[str, float]:
    """Mean and interval of each measure over the test seeds of an optimizer."""
    columns: dict[str, float] = {}
    for name, values in measures.items():
        columns |= _interval_columns(name, values[key].dropna())
    return columns


def _rates(study: StudyResults) -> pd.DataFrame:
    scores = tuning_scores(study).dropna(axis=1, how="all")
    groups = {key: entry["group"] for key, entry in study.facts.optimizers.items()}
    means = scores.mean()[[groups[key] == "fixed" for key in scores.columns.get_level_values("optimizer")]]
    diverged = _diverged(study, "tune")
    rows = []
    for rate in sorted(means.index.unique("learning_rate")):
        at_rate: Any = scores.xs(rate, axis=1, level="learning_rate")
        best = str(means.xs(rate, level="learning_rate").idxmax())
        share = _probability(study, means[best, rate]) / _probability(study, means.max())
        own = at_rate[best].dropna()
        floor = mean_interval(own if np.isfinite(own).all() else []).low
        judged = not np.isnan(floor)
        for key in (key for key in study.facts.optimizers if key in at_rate and groups[key] in CONTENDERS):
            pairs = paired_difference(at_rate, key, best)
            failed = int(diverged.get((key, rate), 0))
            interval = mean_interval(pairs if np.isfinite(pairs).all() else [])
            lost = failed > 0 and study.facts.criterion == "loss"
            verdict = "best" if key == best else _side(interval, lost)
            rows.append(
                {
                    "study": study.facts.study,
                    "criterion": study.facts.criterion,
                    **_names(study, key),
                    "rule": _rule(study, key),
                    "learning_rate": rate,
                    "best": best,
                    "trains": (best, rate) not in diverged and share >= TRAINS,
                    **dict(zip(("difference", "difference_low", "difference_high"), interval, strict=True)),
                    "inside": bool(not lost and at_rate[key].mean() >= floor) if judged else None,
                    "pairs": len(pairs),
                    "failed": failed,
                    "verdict": verdict,
                    "held": verdict in HELD if judged else None,
                }
            )
    table = pd.DataFrame(rows).astype({"inside": "boolean", "held": "boolean"})
    blind_outside = table[table.rule.isin(BLIND) & ~table.inside.fillna(True)]
    return table.assign(tells=table.learning_rate.isin(blind_outside.learning_rate))


def _rule(study: StudyResults, key: str) -> str:
    """The rule that an optimizer follows, see `rates`."""
    memory = candidate_of(study.facts.optimizers[key])
    return key if np.isnan(memory) else f"momentum-{round(100 * memory)}"


def _smallest_shares(study: StudyResults) -> pd.Series:
    """By optimizer: the share of choices that the smallest of its candidates got over the whole training."""
    table = choices(study)
    ascending = table.assign(memory=table.candidate.astype(float)).sort_values("memory", kind="stable")
    return ascending.groupby("optimizer").overall.first()


def _tuning_runs(study: StudyResults) -> pd.Series:
    """Number of tuning runs by optimizer."""
    return study.runs[study.runs.role == "tune"].groupby("optimizer").run.nunique()


def _listed(rates: pd.Series) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _probability(study: StudyResults, score: float) -> float:
    """Probability of a right answer, from a score that is an accuracy or minus a loss."""
    return score if study.facts.criterion == "accuracy" else float(np.exp(score))


def _side(interval: Interval, lost: bool) -> str:
    """On which side of 0 the interval lies."""
    if lost or interval.high < 0:
        return "below"
    if np.isnan(interval.low):
        return "open"
    return "above" if interval.low > 0 else "within"


def _last(study: StudyResults, role: str, metric: str, by: list[str], failed_loss: float = np.nan) -> pd.DataFrame:
    """Value of `metric` at the last step of each run, seeds by `by`; where a run diverged accuracy 0, or the loss."""
    runs = study.runs[study.runs.role == role]
    values = runs[runs.metric == metric].sort_values("step").groupby("run").value.last()
    rows = runs.groupby("run")[["seed", *by]].first().join(values)
    failed = FAILED_ACCURACY if metric.endswith("accuracy") else failed_loss
    rows.loc[rows.index.isin(runs[runs.metric == "diverged"].run), "value"] = failed
    return rows.set_index(["seed", *by]).value.unstack(by).sort_index(axis=1)


def _diverged(study: StudyResults, role: str) -> pd.Series:
    """Number of diverged runs by (optimizer, learning rate), where there are any."""
    runs = study.runs[(study.runs.role == role) & (study.runs.metric == "diverged")]
    return runs.groupby(["optimizer", "learning_rate"]).run.nunique()


def _shares(runs: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """candidate, step, share, overall of one optimizer, from its cumulative counts."""
    cumulative = runs.pivot_table(index=["run", "step"], columns="metric", values="value")
    # "chosen[10]" comes after "chosen[9]"
    cumulative = cumulative[sorted(cumulative.columns, key=lambda name: (len(str(name)), name))]
    cumulative.columns = pd.Index(candidates(entry, cumulative.shape[1]), name="candidate")
    counts = cumulative.groupby("run").diff().fillna(cumulative).groupby("step").sum()
    long = counts.div(counts.sum(axis=1), axis=0).melt(ignore_index=False, value_name="share").reset_index()
    return long.assign(overall=long.candidate.map(counts.sum() / counts.to_numpy().sum()))
