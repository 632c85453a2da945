"""The fidelity ledger accounts for every setting of the paper scale, and names nothing that does not exist."""

import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

from optrepro import catalogue
from optrepro.config import load

ROOT = Path(__file__).parents[1]
LEDGER = catalogue.choices(ROOT / "config")
CODE = [choice for choice in LEDGER if choice.path.startswith("code.")]
CONFIG = [choice for choice in LEDGER if choice not in CODE]
# Names and kinds: they say what a row is, and hold no value that could be another.
NAMES = {"label", "group", "class", "kind", "scale"}


def leaves(tree, path=""):
    """Pairs of a dotted path and a value; a list is one value."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {p: v for key, inner in tree.items() for p, v in leaves(inner, f"{path}.{key}".lstrip(".")).items()}


SETTINGS = {
    path: value
    for path, value in leaves(load(ROOT / "config" / "paper.yaml").model_dump(mode="json", by_alias=True)).items()
    if path.rpartition(".")[2] not in NAMES
}


@functools.cache
def expression(pattern):
    parts = [r"[^.]+" if part == "*" else ".+" if part == "**" else re.escape(part) for part in pattern.split(".")]
    return re.compile(r"\.".join(parts))


def covers(pattern, path):
    """Whether a path of the ledger covers a path of the config: `*` is one key, a final `**` one or more."""
    return expression(pattern).fullmatch(path) is not None


def find(name):
    """What a name below the package stands for, and whether it is a value: a constant, or an argument's default.

    Raises: LookupError for a name that does not exist.
    """
    module, rest = _module(f"optrepro.{name}")
    found, attributes = module, rest.split(".") if rest else []
    for i, attribute in enumerate(attributes):
        if hasattr(found, attribute):
            found = getattr(found, attribute)
        elif i == len(attributes) - 1 and callable(found) and attribute in inspect.signature(found).parameters:
            default = inspect.signature(found).parameters[attribute].default
            return default, default is not inspect.Parameter.empty
        else:
            raise LookupError(f"optrepro.{name}: {found} has no {attribute}")
    return found, not (inspect.ismodule(found) or callable(found))


def _module(name):
    """The longest importable beginning of a dotted name, and the rest."""
    try:
        return importlib.import_module(name), ""
    except ModuleNotFoundError:
        head, _, tail = name.rpartition(".")
        module, rest = _module(head)
        return module, f"{rest}.{tail}".lstrip(".")


def is_prose(value):
    return isinstance(value, str) and " " in value


def is_named(value, words):
    """Whether the words hold the value, or each value of a list; null is nothing to name."""
    parts = value if isinstance(value, list) else [] if value is None else [value]
    return all(str(part) in words for part in parts)


def as_yaml(value):
    return [as_yaml(each) for each in value] if isinstance(value, list | tuple) else value


def test_every_setting_of_the_paper_scale_has_an_entry():
    missing = [path for path in SETTINGS if not any(covers(choice.path, path) for choice in CONFIG)]
    assert missing == [], "the ledger says nothing of these; say where each value comes from"


def test_every_entry_covers_a_setting():
    assert [choice.path for choice in CONFIG if not any(covers(choice.path, path) for path in SETTINGS)] == []


def test_every_entry_has_the_value_of_the_settings_that_it_covers():
    exact = {choice.path for choice in CONFIG if "*" not in choice.path}
    wrong = []
    for choice in CONFIG:
        covered = {path: value for path, value in SETTINGS.items() if covers(choice.path, path)}
        if "*" in choice.path and is_prose(choice.value):  # words that name the values
            wrong += [path for path, v in covered.items() if path not in exact and not is_named(v, choice.value)]
        else:
            wrong += [path for path, v in covered.items() if v != choice.value]
    assert wrong == [], "the ledger has other values than the config"


def test_every_entry_on_code_names_what_exists_and_has_its_value_if_it_has_one():
    found = {choice.path: (choice.value, *find(choice.path.removeprefix("code."))) for choice in CODE}
    values = {path: (said, as_yaml(value)) for path, (said, value, is_value) in found.items() if is_value}
    assert {path: pair for path, pair in values.items() if pair[0] != pair[1]} == {}
    assert [path for path, (said, _, is_value) in found.items() if not is_value and not is_prose(said)] == []


def test_no_path_stands_in_the_ledger_twice():
    paths = [choice.path for choice in LEDGER]
    assert sorted(paths) == sorted(set(paths))


def test_every_entry_says_why_in_a_sentence():
    assert [choice.path for choice in LEDGER if " " not in choice.why or not choice.why.endswith(".")] == []


def test_a_star_covers_one_key_and_two_stars_cover_any_below():
    assert covers("studies.*.epochs", "studies.gap-sgdm.epochs")
    assert not covers("studies.*.epochs", "studies.gap-sgdm.settings.epochs")
    assert covers("studies.**", "studies.gap-sgdm.settings.epochs")
    assert not covers("studies.**", "studies")


@pytest.mark.parametrize(
    "name", ["problems.functions.vlse.NOTHING", "problems.nothing", "problems.data.images.augment.nothing"]
)
def test_a_name_that_the_code_does_not_have_is_noticed(name):
    with pytest.raises(LookupError):
        find(name)
