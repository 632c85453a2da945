"""Values that several jobs of a study need: made once, before the processes of the jobs are forked.

A runner's ``prepare(study, batches, scale)`` calls the functions that are decorated by `shareable`; what they return
then is what the same calls return in the forked processes. Elsewhere such a function is called anew each time, so that
a process that runs one job keeps nothing in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

P = ParamSpec("P")
T = TypeVar("T")

_kept: dict[Hashable, Any] = {}
_keeping = False


@contextmanager
def keeping() -> Iterator[None]:
    """Within the block, keep what shareable functions return, in place of whatever was kept before."""
    global _keeping
    _kept.clear()
    _keeping = True
    try:
        yield
    finally:
        _keeping = False


def shareable(function: Callable[P, T]) -> Callable[P, T]:
    """Make the results of a function shareable. Nobody may change them in place."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (function.__qualname__, *map(_hashable, args), *((k, _hashable(v)) for k, v in sorted(kwargs.items())))
        if key in _kept:
            return _kept[key]  # type: ignore[no-any-return]
        made = function(*args, **kwargs)
        if _keeping:
            _kept[key] = made
        return made

    return wrapper


def _hashable(argument: Any) -> Hashable:
    """An argument, or its JSON if it is a model of settings, or its name if it is a device."""
    if isinstance(argument, BaseModel):
        return type(argument).__name__, argument.model_dump_json()
    return argument if isinstance(argument, str | int | float | tuple | None) else str(argument)
