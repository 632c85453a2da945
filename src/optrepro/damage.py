"""Files that are not what was written into them: the error that names such a file, and readers that raise it.

Nothing but the standard library is imported here, because the optimizers, which need torch alone, read files too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMITTED = ("published", "figures", "weights")  # folders of files that the repository holds
LONGEST = 120  # characters of a reason; that of a parser may hold half of the file


class DamagedFileError(ValueError):
    """A file is damaged, or is none of its kind; the message names it, the reason and what to do.

    Args:
        path: the file.
        reason: what was found.
        advice: what to do; None advises to restore a committed file, and to make any other one again.
        verdict: what is the matter with the file.
    """

    def __init__(self, path: Path | str, reason: str, advice: str | None = None, verdict: str = "is damaged") -> None:
        self.path, self.advice = Path(path), advice or _advice(Path(path))
        line = " ".join(reason.split())
        self.reason = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
        super().__init__(f"{path} {verdict}: {self.reason}; {self.advice}")


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Within the block, report whatever goes wrong as damage of a file of this kind; a missing file stays missing."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise DamagedFileError(path, f"it is not a file and so not {kind}", "name another one")
    try:
        yield
    except DamagedFileError:
        raise
    except Exception as error:  # parsers of a damaged file raise whatever they come across
        raise DamagedFileError(path, f"it cannot be read as {kind} ({type(error).__name__}: {error})") from None


def record(path: Path, *keys: str) -> dict[str, Any]:
    """The mapping in a JSON file. Raises: DamagedFileError if it is none, or if one of the keys is missing."""
    with reading(path, "a record in JSON"):
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or (missing := [key for key in keys if key not in found]):
            raise DamagedFileError(path, "it is no record" if not isinstance(found, dict) else f"it lacks {missing}")
        return found


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nobody reads it and it can still be looked at; return its new path."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def _advice(path: Path) -> str:
    if any(part in path.parts for part in COMMITTED):
        return f"restore it, in a checkout by git checkout -- {path}, or make it again"
    return "if it is a result, delete it and run again the command that makes it, as snakemake does by itself"
