"""Where a newcomer stands among the published rows of a study: scores, ranks, paired differences, a sentence to quote.

All scores are such that higher is better. Controls, which only take a rule apart, are left out; oracles are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import benchmark, columns, comparison, leaderboard, rankings
from optrepro.analysis.intervals import holm, sign_flip_test
from optrepro.analysis.results import StudyResults
from optrepro.conventions import ALPHA
from optrepro.newcomers.tasks import KEY

NAMED = 3  # peers that a sentence names


@dataclass(frozen=True)
class Standing:
    """A newcomer's place in one study.

    Attributes:
        study: the published rows with the newcomer's.
        label: the newcomer's name.
        unit: what a score is; higher is better.
        measure: a mean score in words, with {} in the place of the number.
        sign: -1 where the words give the negative of the score, as of a loss.
        problems: what the pairs of a comparison are, in words, as "43 smooth functions".
        limits: what the study is, in words.
        scores: one row per optimizer: optimizer, label, score, score_low, score_high, average_rank (over the problems),
            rank (1 is best, by the score, on functions by the average rank).
        pairs: one row per peer: peer, label, wins, ties, losses (of the newcomer), difference, difference_low,
            difference_high (of the scores, positive is better), p, p_holm (over the peers; NaN if there are too few
            pairs for it to be at most 5 %).
        tuned: the newcomer's learning rate in words.
        warnings: what the reader must know, a sentence each.
    """

    study: StudyResults
    label: str
    unit: str
    measure: str
    sign: int
    problems: str
    limits: str
    scores: pd.DataFrame
    pairs: pd.DataFrame
    tuned: str
    warnings: tuple[str, ...]

    @property
    def own(self) -> pd.Series:
        """The newcomer's row of `scores`."""
        return self.scores[self.scores.optimizer == KEY].iloc[0]

    def sentence(self) -> str:
        """The verdict in a sentence, with its limits."""
        own, told = self.own, self.pairs.p_holm.notna().any()
        low, high = sorted((self.sign * own.score_low, self.sign * own.score_high))
        ends = "" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]"
        place = f"{self.label} ranks {own['rank']:.0f} of {len(self.scores)} on {self.problems}"
        score = self.measure.format(f"{self.sign * own.score:.4g}{ends}")
        if not told:
            return f"{place}, {score}; too few pairs to tell it from any single peer ({self.limits})."
        sure = self.pairs[self.pairs.p_holm <= ALPHA]
        better, worse = (list(sure.label[sign * sure.difference > 0]) for sign in (1, -1))
        parts = [
            f"{what} {_listed(labels)}" for what, labels in (("better than", better), ("worse than", worse)) if labels
        ]
        rest = len(self.pairs) - len(better) - len(worse)
        parts += (
            [f"not to be told from {'the ' if parts else 'any of the '}{rest}{' others' if parts else ''}"]
            if rest
            else []
        )
        return f"{place}, {score}: {', '.join(parts)} (Holm, 5 %; {self.limits})."


def joined(published: StudyResults, own: StudyResults) -> StudyResults:
    """The published rows with the newcomer's, and the facts with its entry."""
    rows = own.runs[own.runs.optimizer == KEY]
    entry = own.facts.optimizers[KEY]
    settings = {**published.facts.settings, "optimizers": {**published.facts.optimizers, KEY: entry}}
    runs = pd.concat([published.runs, rows.astype(published.runs.dtypes.to_dict())], ignore_index=True)
    return StudyResults(runs, replace(published.facts, settings=settings))


def of(study: StudyResults, ignores_rate: bool = False) -> Standing:
    """The standing of the newcomer in a study with its rows."""
    return (
        _on_functions(study, ignores_rate) if "functions" in study.facts.settings else _on_networks(study, ignores_rate)
    )


def _on_functions(study: StudyResults, ignores_rate: bool) -> Standing:
    table, values = benchmark.scores(study), leaderboard.values(study)
    values = values[_compared(study, values)].dropna()
    settings, own = study.facts.settings, table[table.optimizer == KEY]
    rates = own.learning_rate.dropna()
    inside = int((~own.on_edge.astype(bool)).sum())
    tuned = (
        f"tuned per function, {rates.median():.3g} in the middle; the best rate is inside the grid on {inside} of "
        f"{len(own)} functions"
    )
    warnings = []
    if inside < len(own) / 2:
        warnings.append(f"An end of the grid was best on {len(own) - inside} of {len(own)} functions: widen it.")
    if failed := int(own.diverged.sum()):
        warnings.append(f"{failed} of {int(own.starts.sum())} test runs diverged.")
    tests = [rankings.wilcoxon(values[KEY] - values[peer])[1] for peer in values if peer != KEY]
    return Standing(
        study=study,
        label=study.facts.label(KEY),
        unit="mean of -log10 of the normalized regret, in the order of average ranks",
        measure="with a normalized regret of 10^-x for x = {} on average",
        sign=1,
        problems=f"{len(values)} smooth functions",
        limits=f"laptop proxies; {settings['budget']} evaluations, {settings['starts']} starts",
        scores=_scores(study, values, rankings.average_ranks(-values)),
        pairs=_pairs(study, values, tests),
        tuned=tuned,
        warnings=(*warnings, *_ignored(ignores_rate)),
    )


def _on_networks(study: StudyResults, ignores_rate: bool) -> Standing:
    values = leaderboard.values(study)
    values = values[_compared(study, values)]
    criterion, settings = study.facts.criterion, study.facts.settings
    cell = comparison.tuned_cells(study).loc[KEY]
    rates = sorted(study.runs[(study.runs.optimizer == KEY) & (study.runs.role == "tune")].learning_rate.unique())
    place = "an end of" if cell.on_boundary else "inside"
    warnings = []
    if cell.on_boundary:
        end = "lowest" if cell.learning_rate == rates[0] else "highest"
        warnings.append(f"The {end} learning rate of the grid, {cell.learning_rate:g}, was best: widen the grid there.")
    failed = study.runs[(study.runs.optimizer == KEY) & (study.runs.metric == "diverged")]
    for role, name in (("tune", "tuning"), ("test", "test")):
        if count := failed[failed.role == role].run.nunique():
            warnings.append(f"{count} {name} run{'' if count == 1 else 's'} diverged.")
    tests = [sign_flip_test((values[KEY] - values[peer]).dropna()) for peer in values if peer != KEY]
    seeds = int(values[KEY].count())
    if seeds == 0 or len(tests) * 2.0 ** (1 - seeds) > ALPHA:
        tests = [np.nan] * len(tests)
        warnings.append(
            f"{seeds} seeds are too few for a test beside {len(tests)} peers: the smallest p after Holm would be "
            f"{min(1.0, len(tests) * 2.0 ** (1 - seeds)):.2g}. Intervals of single differences are given without it."
        )
    network = f"{settings.get('network') or str(settings.get('backbone')).partition('/')[2]}, {settings['steps']} steps"
    return Standing(
        study=study,
        label=study.facts.label(KEY),
        unit="test accuracy" if criterion == "accuracy" else "negative test loss",
        measure=f"with a mean test {criterion} of {{}}",
        sign=comparison.SIGNS[criterion],
        problems=str(study.facts.dataset).partition(" (")[0],
        limits=f"laptop proxy; {network}, {seeds} paired seeds",
        scores=_scores(study, values, (-values).mean()),
        pairs=_pairs(study, values, tests),
        tuned=f"tuned to {cell.learning_rate:g}, {place} the grid {rates[0]:g} to {rates[-1]:g} of {len(rates)} rates",
        warnings=(*warnings, *_ignored(ignores_rate)),
    )


def _ignored(ignores_rate: bool) -> list[str]:
    return ["The class ignores its learning rate, so that tuning changed nothing."] if ignores_rate else []


def _compared(study: StudyResults, values: pd.DataFrame) -> list[str]:
    """The rows that are compared, in the order of the config: all but the controls."""
    entries = study.facts.optimizers
    return [key for key in columns.in_order(entries, values) if entries[key]["group"] != "control"]


def _scores(study: StudyResults, values: pd.DataFrame, places: pd.Series) -> pd.DataFrame:
    """The column `scores` of a standing; `places` are the numbers that are ranked, lowest best."""
    rows = [
        {"optimizer": key, "label": study.facts.label(key), **columns.interval("score", values[key].dropna())}
        for key in map(str, values)
    ]
    table = pd.DataFrame(rows)
    average = rankings.average_ranks(-values.dropna())
    table["average_rank"] = table.optimizer.map(average)
    table["rank"] = table.optimizer.map(places.rank(method="min"))
    return table.sort_values(["rank", "optimizer"], ignore_index=True)


def _pairs(study: StudyResults, values: pd.DataFrame, p_values: Sequence[float]) -> pd.DataFrame:
    """The table `pairs` of a standing, in the order of the scores of the peers."""
    rows: list[dict[str, Any]] = []
    for peer in (str(key) for key in values if key != KEY):
        difference = (values[KEY] - values[peer]).dropna()
        counts, interval = columns.record(difference), columns.interval("difference", difference)
        rows.append({"peer": peer, "label": study.facts.label(peer), **counts, **interval})
    table = pd.DataFrame(rows).assign(p=p_values, p_holm=holm(p_values))
    return table.sort_values("difference", ignore_index=True)


def _listed(labels: Sequence[str]) -> str:
    """The labels as a list, with semicolons as some hold commas; of more than `NAMED` the first and the number."""
    named = "; ".join(labels[:NAMED])
    return named if len(labels) <= NAMED else f"{len(labels)} peers ({named}; ...)"
