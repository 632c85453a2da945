"""Verdicts on claims, and the formatting of their evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from optrepro.analysis.intervals import Interval

HOLDS: Literal["holds"] = "holds"
IN_PART: Literal["holds in part"] = "holds in part"
FAILS: Literal["fails"] = "fails"
NOT_RUN: Literal["not run"] = "not run"
VERDICTS = (HOLDS, IN_PART, FAILS, NOT_RUN)
NOTHING = 1e-12  # smaller differences are rounding errors
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and its interval on the same line


class Verdict(NamedTuple):
    """The verdict on a claim and the measured numbers that support it."""

    verdict: Literal["holds", "holds in part", "fails", "not run"]
    evidence: str


def all_or_some(reached: Sequence[bool], evidence: str) -> Verdict:
    """The claim holds if all conditions are met, holds in part if some are, and fails otherwise."""
    if all(reached):
        return Verdict(HOLDS, evidence)
    return Verdict(IN_PART if any(reached) else FAILS, evidence)


def not_below(interval: Interval) -> bool:
    """Whether the interval is not wholly below 0; False without an interval (NaN)."""
    return interval.high >= 0


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
