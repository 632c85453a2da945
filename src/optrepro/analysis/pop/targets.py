"""The targets for POP's policies, which are those of this project and not the paper's, measured on tidy results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from optrepro.analysis import comparison, rankings
from optrepro.analysis.pop import generalization, outside, transfer
from optrepro.analysis.results import StudyResults
from optrepro.analysis.targets import Measured, Measures, compare
from optrepro.analysis.verdict import interval_of, p_value, points, signed
from optrepro.conventions import ALPHA, FLOOR, POP

CONVEX = ("sphere", "booth", "matyas", "sum_squares", "zakharov", "trid")
MULTIMODAL = ("rastrigin", "levy", "styblinski_tang", "griewank")
LONGER = 10  # multiple of the trained horizon
UNSEEN = (8, 16, 32)  # dimensions that the paper's policy was not trained in
BASELINES = "first-order"  # group of the optimizers that the policies are compared with
PAPER = "pop-trained"  # the row of the policy that is trained in two dimensions alone, as the paper's
NOT_FAVOURED = 1.0  # p-value where a test does not favour the policy


def table(*studies: StudyResults, targets: Mapping[str, Any]) -> pd.DataFrame:
    """One row per target: the columns of `optrepro.analysis.targets.compare`."""
    return compare(PopMeasures(studies), targets)


class PopMeasures(Measures):
    """On the benchmark, "functions" are its smooth ones, and baselines are tuned once, on the prior."""

    # The benchmark

    def improvement(self) -> Measured:
        """Mean normalized improvement over the functions."""
        own = self._summary.loc[POP]
        low, high = own.improvement_low, own.improvement_high
        return Measured(own.improvement, f"{own.improvement:.3f} [{low:.3f}, {high:.3f}] on {own.functions} functions")

    def lead(self) -> Measured:
        """Mean normalized improvement above the best first-order baseline's."""
        best = self._baselines.sort_values("improvement").iloc[-1]
        lead = self._summary.loc[POP].improvement - best.improvement
        return Measured(lead, f"{lead:+.3f} above {best.label}")

    def rank(self) -> Measured:
        """Average rank by regret beside the first-order baselines."""
        rank = self._ranks("once")
        return Measured(rank[POP], f"{rank[POP]:.2f}; {self._best.label} {rank[self._best.optimizer]:.2f}")

    def wins(self) -> Measured:
        """Functions with a lower median regret than the first-order baseline of the best rank."""
        best = self._best
        words = f"{best.wins:.0f} of {best.functions} against {best.label}, {best.ties:.0f} ties"
        return Measured(best.wins, words)

    def p_regret(self) -> Measured:
        """The largest p-value, by regret, against a first-order baseline."""
        return self._least_certain("regret")

    def p_improvement(self) -> Measured:
        """The largest p-value, by improvement, against a first-order baseline."""
        return self._least_certain("improvement")

    def lbfgs(self) -> Measured:
        """The p-value of the test by regret against L-BFGS, where it favours the policy."""
        rank, other = self._ranks("once", "lbfgs"), self._summary.loc["lbfgs"]
        ranks = f"rank {rank[POP]:.2f} to {rank['lbfgs']:.2f}"
        record = f"wins/ties/losses {other.wins:.0f}/{other.ties:.0f}/{other.losses:.0f}"
        p = other.p_regret if self._favoured("regret", "lbfgs") else NOT_FAVOURED
        return Measured(p, f"{p_value(other.p_regret)}; {ranks}, {record}")

    def adam_for_each(self) -> Measured:
        """By how much the policy's average rank is below that of Adam tuned for each function."""
        rank = self._ranks("each")
        return Measured(rank["adam"] - rank[POP], f"rank {rank[POP]:.2f} to {rank['adam']:.2f}")

    def convex(self) -> Measured:
        """Convex functions with at most the smallest median regret of a first-order baseline, to float64's floor."""
        regret = self._on(CONVEX, "regret").clip(lower=FLOOR)
        reached = regret[POP] <= regret[list(self._baselines.index)].min(axis=1)
        return _counted(reached)

    def multimodal(self) -> Measured:
        """The smallest lead of the policy's improvement over Adam's on multimodal functions."""
        improvement = self._on(MULTIMODAL, "mean_improvement")
        lead = improvement[POP] - improvement["adam"]
        return Measured(lead.min(), ", ".join(f"{name} {value:+.3f}" for name, value in lead.items()))

    def derivative_free(self) -> Measured:
        """Mean improvement above the best derivative-free reference's, from the starts that references have, too."""
        means = transfer.improvement_from_common_starts(self._study("pop"))
        references = means.drop([key for key in means.index if key in self._study("pop").facts.optimizers])
        if references.empty:
            raise KeyError("derivative-free references have no results")
        labels = {key: row["label"] for key, row in self._study("pop").facts.settings["references"].items()}
        others = ", ".join(f"{labels[key]} {mean:.3f}" for key, mean in references.sort_values()[::-1].items())
        return Measured(means[POP] - references.max(), f"{means[POP]:.3f}; {others}")

    # The prior

    def in_distribution(self) -> Measured:
        """Mean improvement on the prior's test functions at the trained horizon."""
        own = self._prior.loc[POP]
        ends = f"[{own.improvement_low:.3f}, {own.improvement_high:.3f}]"
        return Measured(own.improvement, f"{own.improvement:.3f} {ends} on {own.functions:,} functions")

    def longer(self) -> Measured:
        """First-order baselines that are as good or better at ten times the horizon, by rank or by improvement."""
        budgets = generalization.budgets(self._study("pop"))
        longer = _with_policy(budgets[budgets.multiple == LONGER], f"runs of {LONGER} times the horizon")
        ahead = []
        for collection, rows in longer.groupby("collection", sort=False):
            own: Any = rows.set_index("optimizer").loc[POP]
            for other in rows[rows.group == BASELINES].to_dict("records"):
                if other["rank"] <= own["rank"] or other["improvement"] >= own.improvement:
                    ranks = f"rank {own['rank']:.2f} to {other['rank']:.2f}"
                    ahead.append(f"{other['label']} on {collection} ({ranks})")
        return Measured(len(ahead), f"as good or better: {', '.join(ahead) or 'none'}")

    def dimensions(self) -> Measured:
        """Dimensions in which the 2-D policy is worse than the best first-order baseline, by interval or test."""
        scores = generalization.dimensions(self._study("pop"), PAPER)
        worse, words = 0, []
        for dimension in UNSEEN:
            own = scores[(scores.dimension == dimension) & (scores.group == BASELINES)]
            if own.empty or PAPER not in set(scores.optimizer):
                raise KeyError(f"{PAPER} in {dimension} dimensions has no results")
            best: Any = own.sort_values("improvement").iloc[-1]
            difference = interval_of(best, "improvement_difference")
            worse += difference.high < 0 or (difference.mean < 0 and best.improvement_p < ALPHA)
            words.append(f"{dimension}-D {signed(difference)} to {best.label} ({p_value(best.improvement_p)})")
        return Measured(worse, f"worse in {worse}: {'; '.join(words)}")

    # Collections of others

    def cutest_rank(self) -> Measured:
        """Groups of CUTEst's problems and budgets in which a first-order baseline has as good a rank."""
        return self._behind("pop-cutest")

    def cutest_p(self) -> Measured:
        """The largest p-value over all of CUTEst's problems, over budgets and first-order baselines."""
        return self._over_all("pop-cutest")

    def bbob_rank(self) -> Measured:
        """Dimensions of BBOB and budgets in which a first-order baseline has as good a rank."""
        return self._behind("pop-bbob")

    def bbob_p(self) -> Measured:
        """The largest p-value over all of BBOB's problems, over budgets and first-order baselines."""
        return self._over_all("pop-bbob")

    # Real networks

    def digits(self) -> Measured:
        """Upper end of the interval of the difference in test accuracy to the best tuned baseline on digits."""
        return self._network("pop-digits")

    def mnist(self) -> Measured:
        """The same on MNIST."""
        return self._network("pop-mnist")

    # How they are computed

    @cached_property
    def _scores(self) -> pd.DataFrame:
        return transfer.scores(self._study("pop"))

    @cached_property
    def _summary(self) -> Any:
        table = transfer.summary(self._study("pop"))
        own = table[(table.tuned == "once") & (table.subset == "smooth")].set_index("optimizer", drop=False)
        return _with_policy(own, "the benchmark")

    @cached_property
    def _prior(self) -> Any:
        study = self._study("pop")
        table = generalization.compare(study, [generalization.PRIOR], [study.facts.settings["budget"]])
        return _with_policy(table.set_index("optimizer") if len(table) else table, "the prior's test functions")

    @cached_property
    def _baselines(self) -> Any:
        return self._summary[self._summary.family == BASELINES]

    @property
    def _best(self) -> Any:
        """The first-order baseline of the best average rank."""
        return self._baselines.loc[self._ranks("once").drop(POP).idxmin()]

    def _ranks(self, tuned: str, *others: str) -> pd.Series:
        """Average ranks by regret of the policy, the first-order baselines and others, without further policies."""
        rows = [POP, *self._baselines.index, *others]
        return rankings.average_ranks(transfer.values_of(self._scores, tuned, "smooth", "regret", rows))

    def _on(self, functions: Sequence[str], column: str) -> pd.DataFrame:
        """A column of the scores, functions by optimizers. Raises: KeyError for a function without results."""
        once = self._scores[self._scores.tuned == "once"].pivot(index="function", columns="optimizer", values=column)
        if absent := [name for name in functions if name not in once.index]:
            raise KeyError(f"{', '.join(absent)} have no results")
        found: pd.DataFrame = once.loc[list(functions)]
        return found

    def _favoured(self, measure: str, rival: str) -> bool:
        values = transfer.values_of(self._scores, "once", "smooth", measure, [rival, POP])
        return bool(transfer.direction(values[rival] - values[POP]) > 0)

    def _least_certain(self, measure: str) -> Measured:
        p = self._baselines[f"p_{measure}"].copy()
        for key in p.index:
            if not self._favoured(measure, str(key)):
                p[key] = NOT_FAVOURED
        last: Any = p.idxmax()
        favoured = "" if p[last] < NOT_FAVOURED else ", not in the policy's favour"
        shown = self._baselines.loc[last, f"p_{measure}"]
        return Measured(p[last], f"{p_value(shown)} ({self._baselines.loc[last, 'label']}{favoured})")

    def _behind(self, study: str) -> Measured:
        table = _with_policy(outside.ranks(self._study(study)), study)
        cells = table[table.group != outside.EVERY].groupby(["group", "budget"], sort=False)
        behind = [f"{group} at {budget}" for (group, budget), own in cells if not _first(own)]
        return Measured(len(behind), f"first in {len(cells) - len(behind)} of {len(cells)}{_listed('not', behind)}")

    def _over_all(self, study: str) -> Measured:
        table = _with_policy(outside.ranks(self._study(study)), study)
        own = table[(table.group == outside.EVERY) & (table.family == BASELINES)]
        p = own.p.where(own.wins > own.losses, NOT_FAVOURED)
        worst: Any = p.idxmax()
        last: Any = own.loc[worst]
        favoured = "" if p.max() < NOT_FAVOURED else ", not in the policy's favour"
        words = f"{p_value(last.p)} ({last.label} at {last.budget} evaluations{favoured}), {last.problems} problems"
        return Measured(p.max(), words)

    def _network(self, study: str) -> Measured:
        scores: Any = _with_policy(comparison.scores(self._study(study)).set_index("optimizer"), study)
        own = scores.loc[POP]
        difference = interval_of(own, "difference")
        words = f"{points(difference)} points to {scores.loc[own.reference, 'label']}"
        return Measured(difference.high, words)


def _with_policy(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table unchanged. Raises: KeyError if it says nothing of the policy."""
    present = table.optimizer if "optimizer" in table else table.index
    if POP not in set(present):
        raise KeyError(f"{POP} has no results on {where}")
    return table


def _first(ranks: pd.DataFrame) -> bool:
    """Whether the policy has a better average rank than every first-order baseline."""
    own = ranks.set_index("optimizer")
    return bool(own.loc[POP, "rank"] < own["rank"][own.family == BASELINES].min())


def _counted(reached: pd.Series) -> Measured:
    """How many of the rows reach something, and which do not."""
    missed = [str(name) for name in reached.index[~reached]]
    return Measured(int(reached.sum()), f"{reached.sum()} of {len(reached)}{_listed('not', missed)}")


def _listed(word: str, names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"; {word} {listed}" if listed else ""
