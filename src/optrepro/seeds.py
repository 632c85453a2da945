"""Hashes and seeds that are the same on every machine, in every process and with every version of Python."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(value: Any, digits: int = 10) -> str:
    """The first hexadecimal digits of the SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from the SHA-256 of the parts joined by slashes."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
