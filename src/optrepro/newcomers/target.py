"""Which class a user means: ``my_optimizer.py:MyOptimizer``, or an import path such as ``torch.optim.NAdam``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from optrepro.settings import DOTTED, ConfigError

FORM = "It must be a file and a class, as my_optimizer.py:MyOptimizer, or an import path, as torch.optim.NAdam"


@dataclass(frozen=True)
class Target:
    """A class, which is imported only by the processes that run it.

    Attributes:
        path: import path of the class.
        folder: folder of its file, which stands first in the search path of modules; None if it is importable as it is.
    """

    path: str
    folder: str | None = None

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.path.rpartition(".")[2]

    @property
    def slug(self) -> str:
        """The name in lower case, as folders and scales are named."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-") or "newcomer"

    def make_importable(self) -> None:
        """Put the folder of the file first in the search path of this process and of those that it forks."""
        if self.folder is not None and self.folder not in sys.path:
            sys.path.insert(0, self.folder)


def parse(text: str) -> Target:
    """The class that a text names. Nothing is imported but the packages above the class's module.

    Raises: ConfigError that says what is allowed.
    """
    if "://" in text:
        raise ConfigError(f"optimizer = {text!r} is not allowed: code is never taken from the network. {FORM}")
    if ".py" in text or ":" in text:
        return _of_file(text)
    if re.fullmatch(DOTTED, text) is None:
        raise ConfigError(f"optimizer = {text!r} is not allowed. {FORM}")
    module = text.rpartition(".")[0]
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ConfigError(f"optimizer = {text!r} is not allowed: there is no module {module}. {FORM}")
    return Target(text)


def _of_file(text: str) -> Target:
    name, _, cls = text.rpartition(":")
    if not name or not cls.isidentifier():
        raise ConfigError(f"optimizer = {text!r} is not allowed: it names no class. {FORM}")
    file = Path(name)
    if file.suffix != ".py" or not file.is_file():
        raise ConfigError(f"optimizer = {text!r} is not allowed: {name} is not a Python file. {FORM}")
    if not file.stem.isidentifier():
        raise ConfigError(
            f"optimizer = {text!r} is not allowed: {file.name} cannot be imported; rename it, as my_own.py"
        )
    folder = str(file.resolve().parent)
    other = PathFinder.find_spec(file.stem, [path for path in sys.path if path != folder])
    if other is not None or file.stem in sys.builtin_module_names:
        raise ConfigError(f"optimizer = {text!r} is not allowed: {file.stem} is a module already; rename the file")
    return Target(f"{file.stem}.{cls}", folder)
