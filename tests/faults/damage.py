"""Seeded damage: what disks, editors and interrupted copies do to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Damage = Callable[[bytes, Random], bytes]


def flip(data: bytes, chance: Random) -> bytes:
    """One bit of one byte is the other one."""
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def truncate(data: bytes, chance: Random) -> bytes:
    """The end is missing."""
    return data[: chance.randrange(len(data))]


def empty(data: bytes, chance: Random) -> bytes:
    """Nothing is left."""
    return b""


def zeros(data: bytes, chance: Random) -> bytes:
    """A block was never written."""
    start = chance.randrange(len(data))
    length = min(1 + chance.randrange(64), len(data) - start)
    changed = data[:start] + bytes(length) + data[start + length :]
    return changed if changed != data else flip(data, chance)


def other(data: bytes, chance: Random) -> bytes:
    """It is another file."""
    return chance.choice([b"<html>not found</html>", b"\x89PNG\r\n", chance.randbytes(200)])


DAMAGES: dict[str, Damage] = {each.__name__: each for each in (flip, truncate, empty, zeros, other)}
