"""A damaged config is refused in short lines that name the file, and never crashes the program."""

import copy
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.main import get_command

from optrepro import catalogue, cli, config, runtable
from tests.faults.damage import flip, truncate

ROOT = Path(__file__).parents[2]
CASES = 500
PLACES = {  # the file, and the command that reads it
    **{f"config/{scale}.yaml": ["plan", "--config", f"config/{scale}.yaml"] for scale in ("smoke", "laptop", "gpu")},
    **{
        f"config/{paper}/{file}.yaml": ["plan", "--config", "config/laptop.yaml"]
        for paper in ("gap", "vlse", "pop", "lto", "peers")
        for file in ("optimizers", "studies")
    },
    **{
        f"config/{paper}/{file}.yaml": ["table", "none"]
        for paper in ("gap", "vlse", "pop", "lto")
        for file in ("paper", "exhibits", "claims")
    },
    **{
        f"config/{paper}/fidelity.yaml": ["site", "--scale", "none"]
        for paper in (".", "gap", "vlse", "pop", "lto", "peers")
    },
}
RESOLVED = "config/resolved.json", ["plan", "--config", "config/resolved.json"]
WORDS = "abcdefghijklmnopqrstuvwxyz"


# --- Damage of what a file says -------------------------------------------------------------------------------------


def odd_value(chance: Random) -> Any:
    return chance.choice(
        [
            *(None, True, 0, -1, 0.5, 1e308, 10**30, "", "adam", "../x", "a\nb", "\x1b[31m", "ü" * 400),
            *([], {}, [[]], {"a": {"b": 1}}, list(WORDS * 200), [None, 1], {"": ""}, {"kind": []}, {"from": {}}),
            functools.reduce(lambda inner, _: [inner], range(60), 0),
        ]
    )


def mappings(tree: Any) -> Iterator[Any]:
    """Every mapping and list in a tree that holds something."""
    if isinstance(tree, dict | list) and tree:
        yield tree
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from mappings(each)


def a_place(tree: Any, chance: Random) -> tuple[Any, Any]:
    """A mapping or list of the tree, and a key or index in it."""
    inside = chance.choice(list(mappings(tree)))
    return inside, chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))


def replace(tree: Any, chance: Random) -> None:
    inside, key = a_place(tree, chance)
    inside[key] = odd_value(chance)


def swap(tree: Any, chance: Random) -> None:
    """A value stands where another one should."""
    (one, key), (other, place) = a_place(tree, chance), a_place(tree, chance)
    one[key] = copy.deepcopy(other[place])


def drop(tree: Any, chance: Random) -> None:
    inside, key = a_place(tree, chance)
    del inside[key]


def rename(tree: Any, chance: Random) -> None:
    inside = chance.choice([each for each in mappings(tree) if isinstance(each, dict)])
    key = chance.choice(list(inside))
    letter = chance.randrange(len(key) + 1)
    inside[chance.choice([key[:letter] + "x" + key[letter:], key[::-1], key * 60, key.upper(), f"{key} "])] = (
        inside.pop(key)
    )


def nest(tree: Any, chance: Random) -> None:
    inside, key = a_place(tree, chance)
    inside[key] = chance.choice([[inside[key]], {"value": inside[key]}])


SPOILED: tuple[Callable[[Any, Random], None], ...] = (replace, replace, swap, drop, rename, nest)


# --- Damage of a file's text ----------------------------------------------------------------------------------------


def flip_bytes(text: bytes, chance: Random) -> bytes:
    for _ in range(1 + chance.randrange(4)):
        text = flip(text, chance)
    return text


def double_line(text: bytes, chance: Random) -> bytes:
    """A line that stands twice, such as a key."""
    lines = text.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    return b"".join([*lines[:place], lines[place], *lines[place:]])


def lose_line(text: bytes, chance: Random) -> bytes:
    lines = text.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def indent(text: bytes, chance: Random) -> bytes:
    lines = text.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    lines[place] = chance.choice([b"  ", b"\t", b"- ", b"? "]) + lines[place]
    return b"".join(lines)


def insert(text: bytes, chance: Random) -> bytes:
    """A few characters that mean something in YAML."""
    place = chance.randrange(len(text))
    pieces = [
        b"[",
        b"{",
        b'"',
        b": ",
        b"*x ",
        b"&x ",
        b"!!python/object:os.system ",
        b"!!set ",
        b"%",
        b"\x00",
        b"[" * 9999,
    ]
    return text[:place] + chance.choice(pieces) + text[place:]


CUT = (flip_bytes, truncate, double_line, lose_line, indent, insert)


# --- The cases ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resolved() -> list[dict[str, Any]]:
    """For each study of the scales, the resolved config of it and of the studies that it names."""
    found = []
    for scale in ("smoke", "laptop", "paper", "gpu"):
        whole = json.loads(config.load(ROOT / "config" / f"{scale}.yaml").model_dump_json(by_alias=True))
        studies = whole.pop("studies")
        for name in studies:
            named, todo = {}, [name]
            while todo:
                if (each := todo.pop()) not in named:
                    named[each] = studies[each]
                    text = json.dumps(studies[each])
                    todo += [other for other in studies if f'"{other}"' in text or f'"{other}/' in text]
            found.append({**whole, "studies": named})
    return found


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """The command line in a copy of the config folder. Files are parsed once, and no runs are planned."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    parse = functools.lru_cache(maxsize=64)(config.parse)

    def parsed(text: bytes, source: str) -> Any:
        content = parse(text, source)
        return dict(content) if isinstance(content, dict) else content  # a reader takes `extends` out of it

    monkeypatch.setattr(cli, "app", get_command(cli.app))  # made once, not for each case
    for module in (config, catalogue):
        monkeypatch.setattr(module, "parse", parsed)
    monkeypatch.setattr(runtable, "batches", lambda settings, study: [])
    monkeypatch.delenv("OPTREPRO_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(arguments: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["optrepro", *arguments])
        try:
            cli.entry_point()
        except SystemExit as exit_:
            return int(exit_.code or 0)
        return 0

    return run


def test_no_damaged_config_crashes_the_program_and_each_line_of_an_error_is_short_and_names_the_file(
    resolved: list[dict[str, Any]], program: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 0
    for case in range(CASES):
        chance = Random(case)
        path, command = chance.choice([*PLACES.items(), *[RESOLVED] * 10])
        file, of_resolved = Path(path), (path, command) == RESOLVED
        before = b"" if of_resolved else file.read_bytes()
        if of_resolved or chance.random() < 0.5:
            tree = copy.deepcopy(chance.choice(resolved) if of_resolved else config.parse(before, path))
            chance.choice(SPOILED)(tree, chance)
            file.write_text(json.dumps(tree, indent=1))
        else:
            file.write_bytes(chance.choice(CUT)(before, chance))
        status = program(command)
        lines = capsys.readouterr().err.splitlines()
        file.write_bytes(before)
        assert status in (0, 2), (case, path)
        if status == 2 and not any(word in lines[0] for word in ("'none'", "none.json")):  # the file was taken
            refused += 1
            assert lines[0].startswith("error: config/"), (case, lines)
            assert all("config/" in line or "more errors" in line for line in lines), (case, lines)
            assert max(map(len, lines)) <= 300, (case, lines)
            assert all(line.isprintable() for line in lines), (case, lines)
    assert refused > CASES // 2
