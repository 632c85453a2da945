"""A verdict on a claim, and the words that its evidence is put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from optrepro.analysis.intervals import Interval

HOLDS: Literal["holds"] = "holds"
IN_PART: Literal["holds in part"] = "holds in part"
FAILS: Literal["fails"] = "fails"
NOT_RUN: Literal["not run"] = "not run"
VERDICTS = (HOLDS, IN_PART, FAILS, NOT_RUN)
NOTHING = 1e-12  # a difference below it is rounding error
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and its interval on one line


class Verdict(NamedTuple):
    """How a claim stands, and the measured numbers behind it."""

    verdict: Literal["holds", "holds in part", "fails", "not run"]
    evidence: str


def all_or_some(reached: Sequence[bool], evidence: str) -> Verdict:
    """Holds if everything is reached, in part if something, else fails."""
    if all(reached):
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if any(reached) else FAILS, evidence)


def not_below(interval: Interval) -> bool:
    """Whether the interval does not lie wholly below 0; without an interval (NaN) it cannot be said to match."""
    return interval.high >= 0


def interval_of(row: Any, name: str) -> Interval:
    """The interval that a row of a table has in the columns name, name_low and name_high."""
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
    """A number with its sign, and its interval if it has one: "+0.17 [-0.10, +0.45]"."""
    mean, low, high = (_number(x, digits) for x in interval)
    return f"{mean}{NBSP}[{low},{NBSP}{high}]" if interval.low == interval.low else f"{mean} (no interval)"


def _number(x: float, digits: int) -> str:
    """With its sign; what would be rounded to 0, and so lose its side of 0, keeps its first digit."""
    if abs(x) < NOTHING:
        return f"{0:.{digits}f}"
    return f"{x:+.{digits}f}" if float(f"{x:.{digits}f}") else f"{x:+.1g}"


def p_value(p: float) -> str:
    """0.0123 -> "p = 0.012", below a thousandth "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
