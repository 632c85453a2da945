"""The digest of code, both ways: what is only prose, formatting or place changes nothing, and any other change does."""

from __future__ import annotations

import ast
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optrepro import provenance
from optrepro.source import SourceTree

FILES = sorted(path for path in provenance.PACKAGE.rglob("*.py"))
# Modules with much of the language in them: generators, f-strings, decorators, lambdas, classes, starred arguments.
SAMPLES = ["provenance", "runtable", "layout", "optimizers.controls", "problems.networks.hub"]


def name_of(file: Path) -> str:
    parts = file.relative_to(provenance.PACKAGE).with_suffix("").parts
    return ".".join(["optrepro", *parts]).removesuffix(".__init__")


def digest_of(text: str, folder: Path) -> str:
    """The digest of a module with this source, in a package where it is alone but for two others."""
    folder.mkdir(exist_ok=True)
    (folder / "module.py").write_text(text)
    (folder / "leaf.py").write_text("x = 1")
    (folder / "other.py").write_text("x = 2")
    return SourceTree(folder).digest("optrepro.module")


def all_digests(folder: Path) -> dict[str, str]:
    tree = SourceTree(folder)
    return {name_of(file): tree.digest(name_of(file)) for file in FILES}


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """Those of every module of the package."""
    return all_digests(provenance.PACKAGE)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package."""
    folder = tmp_path / "package"
    shutil.copytree(provenance.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


# What changes nothing


def with_more_comments(text: str) -> str:
    """A comment and a blank line before every statement of the module itself, in lines that end as on Windows."""
    lines = text.splitlines()
    for line in sorted({node.lineno for node in ast.parse(text).body if not hasattr(node, "decorator_list")})[::-1]:
        lines[line - 1 : line - 1] = ["", "# A comment."]
    return "\r\n".join(lines)


def with_other_docstrings(text: str) -> str:
    """Formatted anew without comments, with a docstring for each module, class and function in the place of its own."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
                del node.body[0]
            node.body.insert(0, ast.Expr(ast.Constant("Some other prose.")))
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.parametrize("change", [with_other_docstrings, with_more_comments])
def test_prose_and_formatting_of_every_module_change_no_digest(change, package: Path, digests: dict[str, str]) -> None:
    for file in package.rglob("*.py"):
        text = file.read_text()
        assert change(text) != text or not text.strip()
        file.write_text(change(text), newline="")
    assert all_digests(package) == digests


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'it' 's'", 'x = "its"'),
        ("x = u'it'", "x = 'it'"),
        ("x = 0x10, 1_000, 1e3", "x = (16, 1000, 1000.0)"),
        ("x = f'a{1}' 'b' f'{2:>{3}}'", "x = f'a{1}b{2:>{3}}'"),
        ("x = 1; y = 2", "x = 1\ny = 2"),
        ("class A: pass", "class A:\n    '''What it is.'''"),
        ("class A:\n    x: int = 1", "class A:\n    x: int = 1\n    '''What x is.'''"),
        ("import os\nimport sys, ast", "import ast\nimport os\nimport sys"),
        ("from os import path, sep", "from os import sep\nfrom os import path"),
        ("from optrepro import leaf, other", "from optrepro import other\nimport optrepro.leaf as leaf"),
        ("from optrepro.leaf import x", "from .leaf import x"),
        ("from optrepro import leaf as l", "from . import leaf as l"),
    ],
)
def test_two_ways_to_write_the_same_code_have_one_digest(one: str, other: str, tmp_path: Path) -> None:
    assert digest_of(one, tmp_path) == digest_of(other, tmp_path)


MOVES = {
    "from optrepro.{} import f\ny = f()": "a function",
    "from optrepro.{} import f as g\ny = g()": "a function under another name",
    "import optrepro.{} as deep\ny = deep.f()": "the module under a name",
    "import optrepro.{}\ny = optrepro.{}.f()": "the module by its path",
    "def y():\n    from optrepro.{} import f\n    return f()": "a function when it is called",
    "import optrepro.leaf\nfrom optrepro import other\nfrom optrepro.{} import f\nfrom third import x": "among others",
}


@pytest.mark.parametrize("statement", MOVES, ids=MOVES.values())
def test_a_module_may_move_if_those_that_import_it_follow(statement: str, tmp_path: Path) -> None:
    digests = set()
    for place in ("group.deep", "another.room.deep", "adeep", "zdeep"):
        folder = tmp_path / place
        moved = folder.joinpath(*place.split(".")).with_suffix(".py")
        moved.parent.mkdir(parents=True)
        moved.write_text("from optrepro import leaf\ndef f(): return leaf.x")
        text = statement.replace("{}", place)
        lines = text.split("\n")
        if "third" in text:  # sorted, as imports are
            text = "\n".join([*sorted(lines[:-1], key=lambda line: line.split()[1]), lines[-1]])
        digests.add(digest_of(text, folder))
    assert len(digests) == 1


def test_a_moved_module_of_the_package_keeps_its_digest_and_those_of_all_that_use_it(
    package: Path, digests: dict[str, str]
) -> None:
    old, new = "optrepro.optimizers._closure", "optrepro.attic.stepping"
    (package / "attic").mkdir()
    (package / "optimizers" / "_closure.py").rename(package / "attic" / "stepping.py")
    for file in package.rglob("*.py"):
        file.write_text(file.read_text().replace(f"from {old} import", f"from {new} import"))
    tree = SourceTree(package)
    assert {name: tree.digest(new if name == old else name) for name in digests} == digests


def test_a_module_that_is_named_in_a_string_may_move(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / place).mkdir(parents=True)
        (tmp_path / place / place / "runner.py").write_text("x = 1")
        (tmp_path / place / "user.py").write_text(f'runner = "optrepro.{place}.runner"')
    before, after = (SourceTree(tmp_path / place).digest("optrepro.user") for place in ("here", "there"))
    assert before == after


def test_modules_that_import_each_other_may_move_too(tmp_path: Path) -> None:
    def digest(one: str, other: str) -> str:
        folder = tmp_path / one
        folder.mkdir()
        (folder / f"{one}.py").write_text(f"from optrepro import {other} as friend\nx = 1")
        (folder / f"{other}.py").write_text(f"from optrepro import {one} as friend\nx = 2")
        return SourceTree(folder).digest(f"optrepro.{one}")

    assert digest("a", "b") == digest("z", "m")


# What changes the digest


def mutants(tree: ast.Module) -> Iterator[str]:
    """What is done to which line; while it is, the tree is another program: a constant, an operator, a name ..."""
    swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt}
    swaps |= {ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And}
    swaps |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Not: ast.UAdd}
    swaps |= {ast.USub: ast.UAdd, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.FloorDiv: ast.Mod, ast.Pow: ast.Mod}
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', None)}"
        if isinstance(node, ast.Constant) and id(node) not in prose:
            old = node.value
            node.value = not old if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else repr(old)
            yield f"{line}: {old!r} becomes {node.value!r}"
            node.value = old
        for field, value in ast.iter_fields(node):
            if type(value) in swaps:
                setattr(node, field, swaps[type(value)]())
                yield f"{line}: another operator than {value}"
                setattr(node, field, value)
            if field == "ops" and type(value[0]) in swaps:
                value[0] = swaps[type(old := value[0])]()
                yield f"{line}: another comparison than {old}"
                value[0] = old
            if isinstance(value, str) and not isinstance(node, ast.Constant):
                setattr(node, field, f"{value}_")
                yield f"{line}: {value}_"
                setattr(node, field, value)
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                for i, statement in enumerate(list(value)):
                    if id(getattr(statement, "value", None)) not in prose:
                        value[i] = ast.If(ast.Name("new"), [statement], [])
                        yield f"line {statement.lineno}: a branch around it"
                        value[i] = statement
            if isinstance(node, ast.arguments) and field == "defaults" and value:
                last = value.pop()
                yield f"{line}: an argument without its default"
                value.append(last)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_change_of_a_constant_an_operator_a_name_or_a_branch_changes_the_digest(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"optrepro.{name}"
    statements = ast.parse(SourceTree(provenance.PACKAGE).path(module).read_text()).body
    unnoticed, count = [], 0
    for statement in statements:
        tree = ast.Module([statement], [])
        # The changed tree itself is given, because to write it as text and read that again takes ten times as long.
        monkeypatch.setattr(ast, "parse", lambda _, tree=tree: tree)
        original = SourceTree(provenance.PACKAGE).code(module)
        for what in mutants(tree):
            count += 1
            if SourceTree(provenance.PACKAGE).code(module) == original:
                unnoticed.append(what)
        assert SourceTree(provenance.PACKAGE).code(module) == original, "the changes were not undone"
    assert unnoticed == []
    assert count > 50


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = ..."),
        ("x: int = 1", "x: float = 1"),
        ("def f(): return", "def f(): return 0"),
        ("x = {**a, 'b': 1}", "x = {'b': 1, **a}"),
        ("def f(*, a, b=None): ...", "def f(*, a=None, b): ..."),
        ("x = a[1:]", "x = a[:1]"),
        ("x = f'{a}b'", "x = f'{a!r}b'"),
        ("x = f'{a}b'", "x = f'{a:b}'"),
        ("x = (1, 2)", "x = [1, 2]"),
        ("'''Prose.'''\nx = 1", "y = '''Prose.'''\nx = 1"),
        ("from optrepro.leaf import x", "from optrepro.other import x"),
        ("from optrepro.leaf import x", "from optrepro.leaf import y"),
        ("from optrepro.leaf import x", "from optrepro.leaf import x as y"),
        ("from optrepro.leaf import x", "from elsewhere import x"),
        ("from optrepro import leaf", "from optrepro import leaf as other"),
        ("import optrepro.leaf as x", "import optrepro.other as x"),
        (
            "import optrepro.leaf, optrepro.other\nx = optrepro.leaf",
            "import optrepro.leaf, optrepro.other\nx = optrepro.other",
        ),
        ("import numpy as x", "import scipy as x"),
        ("import numpy.a", "import numpy.b"),
        ("from a import x\nfrom b import x", "from b import x\nfrom a import x"),
        ("x = 1\nimport a", "import a\nx = 1"),
    ],
)
def test_two_programs_have_two_digests(one: str, other: str, tmp_path: Path) -> None:
    assert digest_of(one, tmp_path) != digest_of(other, tmp_path)


CONSTANTS = st.none() | st.booleans() | st.integers(0) | st.floats(0, 1e300) | st.text() | st.binary()


@given(CONSTANTS, CONSTANTS)
def test_constants_have_one_digest_if_and_only_if_they_are_the_same(one: object, other: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = (digest_of(f"x = {value!r}", Path(folder)) for value in (one, other))
    assert (first == second) is (type(one) is type(other) and repr(one) == repr(other))


@pytest.mark.parametrize("seed", range(2))
def test_a_change_of_any_module_changes_the_digests_of_those_that_use_it_and_of_no_other(
    seed: int, package: Path, digests: dict[str, str]
) -> None:
    file = random.Random(seed).choice([path for path in FILES if path.name != "__init__.py"])
    changed = name_of(file)
    copied = package / file.relative_to(provenance.PACKAGE)
    copied.write_text(copied.read_text() + "\nCHANGED = True\n")
    now = all_digests(package)
    tree = SourceTree(provenance.PACKAGE)
    assert {name for name in digests if now[name] != digests[name]} == {
        name for name in digests if changed in tree.closure(name)
    }


# Versions of Python

LANGUAGE = """
from __future__ import annotations
import numpy as np, os.path
from optrepro import leaf, other as renamed
@decorated(1, *a, key=None, **b)
class A(B, metaclass=C):
    field: dict[str, int] = {1: 'é\\u2028', **rest}
    async def method(self, a, /, b: int = -1, *c, d, e=0.5, **f) -> None:
        async with a as b, c: await d
        return lambda x, *, y=...: [i async for i in x if i if not y]
try:
    assert x is not None, f'{x!r:>{width}}' f'a{b=}' 'c' f"{x:}{'nested'}"
except* (ValueError, TypeError) as error: raise X from error
else: del a.b[1:, ::2]
finally: global g
match point:
    case [1, *_, {'a': None, **rest}] | A(x=0) if y: pass
    case -1j as z: (n := 10_000_000_000_000_000_000_000)
    case _: x @= b'\\x00' if a <= b < c else not d
for i, *j in yields(): 1e999; break
else: x: int; yield_ = (yield from {k: v for k, v in leaf.x})
"""


def test_every_version_of_python_gives_this_digest(tmp_path: Path) -> None:
    assert digest_of(LANGUAGE, tmp_path) == "8d2237540ca89ddf370a45bc586fe6a17c2cc1d3ff390859be5778152bdfcb27"


CODE = """
import json, sys
from pathlib import Path
from optrepro.source import SourceTree
tree = SourceTree(Path(sys.argv[1]))
print(json.dumps({name: tree.digest(name) for name in sys.argv[2:]}))
"""


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_versions_of_python_agree(version: str, digests: dict[str, str]) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"python{version} is not on this machine")
    command = [python, "-c", CODE, str(provenance.PACKAGE), *digests]
    there = {"PYTHONPATH": str(provenance.PACKAGE.parent)}
    done = subprocess.run(command, env=there, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == digests
