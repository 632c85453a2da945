"""Verdicts on claims, and the formatting of their evidence.

One criterion decides wherever optimizers are compared: the 95 % interval of the paired difference, signed so that
positive is better, beside the claim's margin of equivalence. What a difference within the margin leaves unchanged
matters to nobody: "as good as" asks for an interval above minus the margin, "better" for one above 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal, NamedTuple

from optrepro.analysis.intervals import Interval

HOLDS: Literal["holds"] = "holds"
IN_PART: Literal["holds in part"] = "holds in part"
TRIVIALLY: Literal["holds trivially"] = "holds trivially"
UNDECIDED: Literal["undecided"] = "undecided"
FAILS: Literal["fails"] = "fails"
NOT_RUN: Literal["not run"] = "not run"
VERDICTS = (HOLDS, IN_PART, TRIVIALLY, UNDECIDED, FAILS, NOT_RUN)
LEAST_SEEDS = 3  # chosen: fewer decide nothing
NOTHING = 1e-12  # smaller differences are rounding errors
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and its interval on the same line


class Verdict(NamedTuple):
    """The verdict on a claim and the measured numbers that support it."""

    verdict: Literal["holds", "holds in part", "holds trivially", "undecided", "fails", "not run"]
    evidence: str


class Outcome(Enum):
    """What was found of one of the conditions that make up a claim."""

    MET = "met"
    TRIVIAL = "met by a rule that never switched, so that its runs are those of a fixed candidate"
    OPEN = "the interval is wider than the margin can decide"
    MISSED = "missed"


def as_good(difference: Interval, margin: float) -> Outcome:
    """Whether something is as good, by its difference (positive is better): missed if wholly below minus the margin.

    Without an interval (NaN) it is open.
    """
    if difference.low >= -margin:
        return Outcome.MET
    return Outcome.MISSED if difference.high < -margin else Outcome.OPEN


def better(difference: Interval, margin: float) -> Outcome:
    """Whether something is better, by its difference (positive is better): missed if by no more than the margin.

    Without an interval (NaN) it is open.
    """
    if difference.low > 0:
        return Outcome.MET
    return Outcome.MISSED if difference.high <= margin else Outcome.OPEN


def met(condition: bool) -> Outcome:
    """The outcome of a condition that no interval leaves open."""
    return Outcome.MET if condition else Outcome.MISSED


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of conditions that have to be met all."""
    found = set(outcomes)
    worst = (Outcome.MISSED, Outcome.OPEN, Outcome.TRIVIAL)
    return next((outcome for outcome in worst if outcome in found), Outcome.MET)


def judged(outcomes: Iterable[Outcome], evidence: str, share: float = 0.0) -> Verdict:
    """The verdict on a claim of several conditions.

    It holds if all are met, and only trivially if some of them are met trivially; these count for nothing else. It
    holds in part if more than a share are met. Else it fails if one is missed, and is undecided if none is.
    """
    found = list(outcomes)
    telling = [outcome for outcome in found if outcome is not Outcome.TRIVIAL]
    reached = telling.count(Outcome.MET)
    if reached == len(telling):
        return Verdict(HOLDS if len(telling) == len(found) else TRIVIALLY, evidence)
    if reached > share * len(telling):
        return Verdict(IN_PART, evidence)
    return Verdict(FAILS if Outcome.MISSED in telling else UNDECIDED, evidence)


def too_few(study: str, seeds: int, role: str) -> Verdict | None:
    """The verdict on a claim that rests on so few seeds of a study, or None if they are enough."""
    if seeds >= LEAST_SEEDS:
        return None
    words = f"{seeds} {role} seed{'' if seeds == 1 else 's'}"
    return Verdict(UNDECIDED, f"{study} has {words}; a verdict needs {LEAST_SEEDS}")


def interval_of(row: Any, name: str) -> Interval:
    """The interval in the columns name, name_low and name_high of a table's row."""
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def points(interval: Interval) -> str:
    """A difference in accuracy in percentage points, with its interval."""
    if interval.low == interval.high == 0:
        return "0 (the runs are identical)"
    return bracketed(Interval(*(100 * x for x in interval)), 2)


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    return bracketed(interval, 3)


def bracketed(interval: Interval, digits: int) -> str:
    """A signed number with its interval, if there is one: "+0.17 [-0.10, +0.45]"."""
    mean, low, high = (_number(x, digits) for x in interval)
    return f"{mean}{NBSP}[{low},{NBSP}{high}]" if interval.low == interval.low else f"{mean} (no interval)"


def _number(x: float, digits: int) -> str:
    """A signed number; one that would be rounded to 0 keeps its first significant digit."""
    if abs(x) < NOTHING:
        return f"{0:.{digits}f}"
    return f"{x:+.{digits}f}" if float(f"{x:.{digits}f}") else f"{x:+.1g}"


def p_value(p: float) -> str:
    """A p-value in words: 0.0123 -> "p = 0.012", 0.0001 -> "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
