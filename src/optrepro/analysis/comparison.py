"""Comparisons of optimizers over paired seeds, at their tuned learning rates and over the sweep of learning rates.

Optimizers are compared by the study's criterion, accuracy or loss. Differences are signed so that positive is better:
accuracy gained or loss saved.

A diverged run counts with accuracy 0, as in tuning, and is left out of mean losses and curves; a separate column counts
diverged runs. Intervals are Student's t intervals over seeds, at 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from optrepro.analysis import columns
from optrepro.analysis.intervals import Interval, holm, mean_interval, sign_flip_test
from optrepro.analysis.results import StudyResults
from optrepro.conventions import ALPHA

FAILED_ACCURACY = 0.0
MEASURES = ("test_accuracy", "test_loss", "exact_match")
SIGNS = {"accuracy": 1, "loss": -1}  # factor that makes more of a criterion better
TRAINS = 0.5  # chosen: a candidate trains if it has this share of the sweep's best probability of a right answer
HELD = ("within", "above", "best")  # verdicts of `rates` that are not below the best fixed candidate
CONTENDERS = ("fixed", "dynamic", "control")  # groups with the same grid of learning rates; peers may have others
BLIND = ("random", "mean")  # controls whose choices do not depend on the gradients
MEMORY = ("momentum", "betas")  # settings that hold one candidate or several

# Default candidates of the selecting optimizers.
_CANDIDATES = {
    "momentum": (0.5, 0.9, 0.99),
    "betas": ((0.5, 0.999), (0.9, 0.999), (0.99, 0.999)),
}


def scores(study: StudyResults) -> pd.DataFrame:
    """One row per optimizer, in the order of the config.

    Columns: optimizer, label, group, value (momentum or beta1 of a fixed candidate); learning_rate, on_boundary
    (whether the tuned rate is an end of the grid, so that the best rate may be outside), validation_accuracy or
    validation_loss (tuning runs at that rate); seeds, diverged, tuning_runs, tuning_diverged (counts of runs);
    test_accuracy, test_loss and, if questions were asked, exact_match, with ``_low`` and ``_high``; rank (by the
    study's criterion on test data, 1 is best); smallest (share of the smallest candidate among the choices, NaN without
    choices); and the paired difference in the criterion to two references:

    - difference, _low, _high, p, p_holm: to `reference`, the fixed candidate that is best on validation data in the
      tuning runs, which a manual sweep would have picked;
    - top_difference, _low, _high: to `top`, the fixed candidate with the best mean on test data. This choice uses the
      test set, so it favours the fixed candidates.

    p is that of the exact sign-flip test, and p_holm is adjusted for all comparisons with the reference. p_holm is NaN
    if there are too few seeds for the number of comparisons, since the smallest possible p for n pairs is 2 / 2^n.
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
                **names(study, key),
                **tuned.loc[key],
                "seeds": compared[key].count(),
                **_measured(measures, key),
                "reference": reference,
                **columns.interval("difference", difference),
                "p": sign_flip_test(difference),
                "top": top,
                **columns.interval("top_difference", paired_difference(compared, key, top)),
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

    Diverged runs are left out of the whole curve.
    """
    runs = study.runs[(study.runs.role == "test") & ~study.runs.metric.str.startswith("chosen")]
    diverged = runs[runs.metric == "diverged"].run
    whole = runs[~runs.run.isin(diverged)]
    grouped = whole.groupby(["optimizer", "metric", "step"], sort=False, observed=True).value
    return grouped.agg(mean="mean", std="std", seeds="count").reset_index()


def choices(study: StudyResults) -> pd.DataFrame:
    """Shares of the candidates among the choices: optimizer, candidate, step, share, overall.

    `share` is the share since the evaluation before `step`, `overall` the share over the whole training, both over all
    test seeds, and over all tensors if each tensor has its own choice.
    """
    runs = _chosen(study)
    tables = [
        _shares(runs[runs.optimizer == key], entry).assign(optimizer=key)
        for key, entry in study.facts.optimizers.items()
        if key in set(runs.optimizer)
    ]
    order = ["optimizer", "candidate", "step", "share", "overall"]
    return pd.concat(tables, ignore_index=True)[order] if tables else pd.DataFrame(columns=order)


def overall_shares(study: StudyResults, optimizer: str) -> pd.Series:
    """Share of each candidate among the choices of the whole training, by candidate.

    Raises: KeyError if the optimizer has no recorded choices.
    """
    runs = _chosen(study)
    own = runs[runs.optimizer == optimizer]
    if own.empty:
        raise KeyError(optimizer)
    return _overall(own, study.facts.optimizers[optimizer])


def sweep(study: StudyResults) -> pd.DataFrame:
    """The tuning runs as a table, one row per optimizer and learning rate.

    Columns: optimizer, label, group, value, learning_rate, validation_accuracy (mean at the last step, 0 for a diverged
    run) with ``_low`` and ``_high``, seeds, tuning_diverged, tuned (whether this is the optimizer's best rate).
    """
    accuracy = tuning_accuracy(study)
    diverged = _diverged(study, "tune")
    rows = []
    for key in (key for key in study.facts.optimizers if key in accuracy):
        own = accuracy[[key]].droplevel(0, axis=1).dropna(axis=1, how="all")
        for rate in own:
            rows.append(
                {
                    **names(study, key),
                    "learning_rate": rate,
                    **columns.interval("validation_accuracy", own[rate].dropna()),
                    "seeds": own[rate].count(),
                    "tuning_diverged": int(diverged.get((key, rate), 0)),
                    "tuned": rate == own.mean().idxmax(),
                }
            )
    return pd.DataFrame(rows)


def rates(*studies: StudyResults) -> pd.DataFrame:
    """Every candidate, rule and control at every learning rate of the sweep, compared with the reference at that rate.

    The reference is the fixed candidate with the best mean validation score at the learning rate. There is one row per
    study, optimizer and learning rate, with the columns study, criterion, optimizer, label, group, value,
    learning_rate; pairs, failed (number of diverged runs); difference, _low, _high to the reference (paired over the
    tuning seeds, on validation data); and

    - rule: the optimizer's key or, for a fixed candidate, its memory (``momentum-90``, also for Adam), so that rows of
      different studies can be combined;
    - best: the reference;
    - trains: whether the reference trains at this rate. None of its runs diverged, and its probability of a right
      answer is at least half of the best one in the sweep of fixed candidates. The probability is the accuracy, or
      exp(-loss), the geometric mean of the probability of the right token (chosen);
    - verdict: "best" for the reference itself, "above" or "below" if the interval of the difference is wholly on that
      side of 0, "within" if it contains 0, "open" without an interval. A diverged run has no loss, so if loss is the
      criterion, the verdict on an optimizer with one is "below";
    - held: whether the verdict is "within", "above" or "best";
    - inside: whether the mean is at least the lower end of the reference's own 95 % interval over the seeds. The paired
      differences of `verdict` are the stricter test, because they do not contain what the seeds have in common;
    - tells: whether a control of BLIND is not inside at this rate, so that being inside is evidence for a rule.

    `held` and `inside` are missing if the reference has no interval: there is one seed, or one of its runs diverged.
    """
    return pd.concat([_rates(study) for study in studies], ignore_index=True)


def held(*studies: StudyResults) -> pd.DataFrame:
    """Numbers of learning rates at which each candidate, rule and control of `rates` matches the reference, by study.

    Only rates count at which the reference trains and has an interval; with one tuning seed there are none.

    Columns: study, criterion, rule, label, group; rates (their number), and the numbers of those with inside, held, and
    verdict "above"; telling (number of rates with `tells`) and told (number of these with inside); below and outside
    (texts that list the rates with verdict "below" and those without inside); worst (the smallest mean difference; NaN
    if one is undefined).
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
    """`metric` at the last step of the test runs, seeds by optimizers; NaN if the run is missing or has no loss."""
    return _last(study, "test", metric, ["optimizer"])


def test_scores(study: StudyResults) -> pd.DataFrame:
    """The study's criterion at the end of the test runs, signed so that higher is better: seeds by optimizers."""
    criterion = study.facts.criterion
    return SIGNS[criterion] * final(study, f"test_{criterion}")


def tuning_scores(study: StudyResults) -> pd.DataFrame:
    """The study's criterion on validation data at the end of the tuning runs, signed so that higher is better.

    Rows are seeds, columns (optimizer, learning rate ascending). A diverged run has accuracy 0 or an infinite loss.
    """
    criterion = study.facts.criterion
    return SIGNS[criterion] * _last(study, "tune", f"validation_{criterion}", ["optimizer", "learning_rate"], np.inf)


def over_rates(study: StudyResults) -> pd.DataFrame:
    """Mean of `tuning_scores` over the learning rates at which the reference of `rates` trains: seeds by optimizers.

    Only optimizers of the groups `CONTENDERS` are included. The mean is NaN if a run has an infinite loss.
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

    If loss is the criterion, the last column is validation_loss. An optimizer without test runs is left out; without
    tuning runs, its last two columns are False and NaN.
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
    """Differences to the reference over their common seeds; empty for the reference itself."""
    if reference is None or optimizer == reference:
        return []
    return list((values[optimizer] - values[reference]).dropna())


def names(study: StudyResults, key: str) -> dict[str, Any]:
    """`columns.names` of an optimizer, and `value`: its momentum or beta1 if it is a fixed candidate, else NaN."""
    return {**columns.names(study, key), "value": candidate_of(study.facts.optimizers[key])}


def candidate_of(entry: Mapping[str, Any]) -> float:
    """The momentum (or beta1) in a fixed candidate's config entry; NaN for any other optimizer."""
    if entry["group"] != "fixed":
        return np.nan
    values = [entry["settings"][name] for name in MEMORY if name in entry["settings"]]
    return _memory(values[0]) if values else np.nan


def candidates(entry: Mapping[str, Any], count: int) -> list[str]:
    """Names of the `count` candidates of a selecting optimizer: its momenta or values of beta1, as text.

    They come from its settings or the defaults of its class; if these are not `count` values, the names are indices.
    """
    kind = "betas" if "Adam" in entry["class"] else "momentum"
    values = entry["settings"].get(kind, _CANDIDATES[kind])
    names = [f"{_memory(value):g}" for value in values]
    return names if len(names) == count else [str(k) for k in range(count)]


def _memory(value: Any) -> float:
    return float(value[0] if isinstance(value, list | tuple) else value)


def _measured(measures: Mapping[str, pd.DataFrame], key: str) -> dict[str, float]:
    """Mean and interval of each measure over the test seeds of an optimizer."""
    measured: dict[str, float] = {}
    for name, values in measures.items():
        measured |= columns.interval(name, values[key].dropna())
    return measured


class _Reference(NamedTuple):
    """The fixed candidate with the best mean validation score at a learning rate."""

    optimizer: str
    trains: bool  # see `rates`
    low: float  # lower end of the interval of its mean score; NaN without an interval


def _rates(study: StudyResults) -> pd.DataFrame:
    """The rows of `rates` for one study."""
    scores = tuning_scores(study).dropna(axis=1, how="all")
    diverged = _diverged(study, "tune")
    criterion = study.facts.criterion
    rows = []
    for rate, reference in _references(study, scores, diverged).items():
        at_rate: Any = scores.xs(rate, axis=1, level="learning_rate")
        for key in columns.in_order(_contenders(study), at_rate):
            head = {"study": study.facts.study, "criterion": criterion, **names(study, key), "rule": _rule(study, key)}
            place = {"learning_rate": rate, "best": reference.optimizer, "trains": reference.trains}
            judged = _judged(at_rate, key, reference, int(diverged.get((key, rate), 0)), criterion)
            rows.append({**head, **place, **judged, "no_interval": np.isnan(reference.low)})
    table = pd.DataFrame(rows).astype({"inside": "boolean", "held": "boolean"})
    table.loc[table.pop("no_interval"), ["inside", "held"]] = pd.NA
    blind_outside = table[table.rule.isin(BLIND) & ~table.inside.fillna(True)]
    return table.assign(tells=table.learning_rate.isin(blind_outside.learning_rate))


def _contenders(study: StudyResults) -> list[str]:
    return [key for key, entry in study.facts.optimizers.items() if entry["group"] in CONTENDERS]


def _references(study: StudyResults, scores: pd.DataFrame, diverged: pd.Series) -> dict[float, _Reference]:
    """The reference at each learning rate, ascending; `scores` are those of `tuning_scores`."""
    groups = {key: entry["group"] for key, entry in study.facts.optimizers.items()}
    means = scores.mean()[[groups[key] == "fixed" for key in scores.columns.get_level_values("optimizer")]]
    highest = _probability(study, means.max())
    references = {}
    for rate in sorted(means.index.unique("learning_rate")):
        best = str(means.xs(rate, level="learning_rate").idxmax())
        share = _probability(study, means[best, rate]) / highest
        trains = (best, rate) not in diverged and share >= TRAINS
        references[rate] = _Reference(best, trains, mean_interval(_if_finite(scores[best, rate].dropna())).low)
    return references


def _judged(at_rate: Any, key: str, reference: _Reference, failed: int, criterion: str) -> dict[str, Any]:
    """The columns of `rates` that compare an optimizer with the reference at one learning rate.

    Args:
        at_rate: scores at that rate, seeds by optimizers.
        key: the optimizer.
        reference: the reference at that rate; without an interval, `inside` and `held` mean nothing.
        failed: number of diverged runs of the optimizer at that rate.
        criterion: of the study. A mean loss is undefined if a run diverged.
    """
    pairs = paired_difference(at_rate, key, reference.optimizer)
    difference = columns.interval("difference", _if_finite(pairs))
    lost = failed > 0 and criterion == "loss"
    verdict = "best" if key == reference.optimizer else _side(Interval(*difference.values()), lost)
    return {
        **difference,
        "inside": bool(not lost and at_rate[key].mean() >= reference.low),
        "pairs": len(pairs),
        "failed": failed,
        "verdict": verdict,
        "held": verdict in HELD,
    }


def _if_finite(values: ArrayLike) -> ArrayLike:
    """The values, or none if one of them is infinite, so that their mean has no interval."""
    return values if np.isfinite(values).all() else []


def _rule(study: StudyResults, key: str) -> str:
    """The column `rule` of `rates`."""
    memory = candidate_of(study.facts.optimizers[key])
    return key if np.isnan(memory) else f"momentum-{round(100 * memory)}"


def _smallest_shares(study: StudyResults) -> pd.Series:
    """Share of the smallest candidate among the choices of the whole training, by optimizer."""
    shares = {}
    for optimizer, runs in _chosen(study).groupby("optimizer", observed=True):
        overall = _overall(runs, study.facts.optimizers[str(optimizer)])
        shares[optimizer] = overall[min(overall.index, key=float)]
    return pd.Series(shares, dtype=float)


def _tuning_runs(study: StudyResults) -> pd.Series:
    """Number of tuning runs by optimizer."""
    return study.runs[study.runs.role == "tune"].groupby("optimizer").run.nunique()


def _listed(rates: pd.Series) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _probability(study: StudyResults, score: float) -> float:
    """Probability of a right answer, from a score that is an accuracy or a negative loss."""
    return score if study.facts.criterion == "accuracy" else float(np.exp(score))


def _side(interval: Interval, lost: bool) -> str:
    """The side of 0 on which the interval lies, as a verdict of `rates`."""
    if lost or interval.high < 0:
        return "below"
    if np.isnan(interval.low):
        return "open"
    return "above" if interval.low > 0 else "within"


def _last(study: StudyResults, role: str, metric: str, by: list[str], failed_loss: float = np.nan) -> pd.DataFrame:
    """`metric` at the last step of each run, seeds by `by`; a diverged run has accuracy 0 or loss `failed_loss`."""
    runs = study.runs[study.runs.role == role]
    values = runs[runs.metric == metric].sort_values("step").groupby("run").value.last()
    rows = runs.groupby("run")[["seed", *by]].first().join(values)
    failed = FAILED_ACCURACY if metric.endswith("accuracy") else failed_loss
    rows.loc[rows.index.isin(runs[runs.metric == "diverged"].run), "value"] = failed
    return rows.set_index(["seed", *by]).value.unstack(by).sort_index(axis=1)


def _diverged(study: StudyResults, role: str) -> pd.Series:
    """Number of diverged runs by (optimizer, learning rate), without entries of 0."""
    runs = study.runs[(study.runs.role == role) & (study.runs.metric == "diverged")]
    return runs.groupby(["optimizer", "learning_rate"]).run.nunique()


def _chosen(study: StudyResults) -> pd.DataFrame:
    """The rows of test runs that count how often each candidate was chosen."""
    return study.runs[(study.runs.role == "test") & study.runs.metric.str.startswith("chosen")]


def _shares(runs: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """The columns candidate, step, share and overall for one optimizer, from its cumulative counts."""
    cumulative = runs.pivot_table(index=["run", "step"], columns="metric", values="value")
    cumulative = cumulative[sorted(cumulative.columns, key=_by_number)]
    cumulative.columns = pd.Index(candidates(entry, cumulative.shape[1]), name="candidate")
    counts = cumulative.groupby("run").diff().fillna(cumulative).groupby("step").sum()
    long = counts.div(counts.sum(axis=1), axis=0).melt(ignore_index=False, value_name="share").reset_index()
    return long.assign(overall=long.candidate.map(_overall(runs, entry)))


def _overall(runs: pd.DataFrame, entry: Mapping[str, Any]) -> pd.Series:
    """Share of each candidate among all choices of one optimizer, by candidate, from its cumulative counts."""
    last = runs.sort_values("step").groupby(["run", "metric"], observed=True).value.last()
    counts = last.groupby("metric", observed=True).sum().sort_index(key=lambda names: names.map(_by_number))
    names = pd.Index(candidates(entry, len(counts)), name="candidate")
    return (counts / counts.sum()).set_axis(names).rename("overall")


def _by_number(metric: object) -> tuple[int, str]:
    """What sorts the metrics of choices by their numbers: "chosen[10]" comes after "chosen[9]"."""
    name = str(metric)
    return len(name), name
