"""Digests of the code of this package's modules, which do not depend on prose, formatting or location."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

ROOT = "optrepro"
# Positions are attributes, not fields. The context of a name follows from its parent; `kind` marks u"" strings.
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}
_FIELDS = {
    kind: sorted(set(kind._fields) - _IGNORED_FIELDS)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


class Module(NamedTuple):
    """A reference to a module of this package in the code that imports it."""

    name: str


Part = str | Module


class SourceTree:
    """The modules below a package's folder. Each file is read once, so a later edit needs a new tree.

    The digest of a module covers its syntax tree and the digests of the modules of this package that it imports
    anywhere in its source. Modules that import each other are digested together. Strings are code; if a module is named
    in a string without being imported, only its name enters the digest.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._code: dict[str, Sequence[Part]] = {}
        self._digests: dict[str, str] = {}

    def path(self, module: str) -> Path:
        """The file of a module or package, which may belong to this package or to a user.

        Raises: ValueError if the file does not exist.
        """
        path = self._place(module)
        if path is None or not path.is_file():
            raise ValueError(f"{module} is not a module of {ROOT}: {path} does not exist")
        return path

    def __contains__(self, module: str) -> bool:
        return module.partition(".")[0] == ROOT and self.path_exists(module)

    def path_exists(self, module: str) -> bool:
        """Whether a module has a file."""
        path = self._place(module)
        return path is not None and path.is_file()

    def _place(self, module: str) -> Path | None:
        top, *rest = module.split(".")
        folder = self.folder if top == ROOT else _folder(top)
        if folder is None or folder.suffix == ".py":
            return folder
        base = folder.joinpath(*rest)
        return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")

    def imports(self, module: str) -> set[str]:
        """The modules of this package that a module imports."""
        return {part.name for part in self.code(module) if isinstance(part, Module)}

    def closure(self, *modules: str) -> set[str]:
        """The modules and all modules of this package that they import, directly or indirectly."""
        seen: set[str] = set()
        todo = list(modules)
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo.extend(self.imports(module))
        return seen

    def digest(self, module: str) -> str:
        """SHA-256, in hexadecimal, of the code of a module and of all modules of this package that it imports.

        Raises: ValueError if the module does not exist; SyntaxError if it is not valid Python.
        """
        if module not in self._digests:
            for cycle in _strongly_connected(module, {name: self.imports(name) for name in self.closure(module)}):
                self._digest_together(cycle)
        return self._digests[module]

    def _digest_together(self, cycle: Sequence[str]) -> None:
        """Digest modules that import each other; the digests of all other modules that they import are known.

        Names must not affect the digests, so all modules start with the same empty digest. In each round, every module
        is digested with the digests that the others had after the previous round. After as many rounds as there are
        modules, the code of each module has affected all digests.
        """
        if cycle[0] in self._digests:
            return
        known = {**self._digests, **dict.fromkeys(cycle, "")}
        for _ in cycle:
            known |= {module: _filled(self.code(module), known) for module in cycle}
        self._digests |= {module: known[module] for module in cycle}

    def code(self, module: str) -> Sequence[Part]:
        """The canonical text of a module, in parts, with references to the modules that it imports."""
        if module not in self._code:
            path = self.path(module)
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            self._code[module] = _Canonical(self, package).write(ast.parse(path.read_bytes()))
        return self._code[module]


@cache
def is_installed(module: str) -> bool:
    """Whether a module belongs to Python or an installed distribution, whose version the lock file pins."""
    top = module.partition(".")[0]
    folder = None if top == ROOT else _folder(top)
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return top != ROOT and (folder is None or any(folder.is_relative_to(path) for path in installed))


def _folder(top: str) -> Path | None:
    """The folder of a top-level package or the file of a top-level module; None if it has no Python source."""
    spec = find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    return path.parent if path.name == "__init__.py" else path


@cache
def tree(folder: Path) -> SourceTree:
    """The tree of a folder, read once in a process."""
    return SourceTree(folder)


def _filled(parts: Sequence[Part], digests: dict[str, str]) -> str:
    text = "".join(digests[part.name] if isinstance(part, Module) else part for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _strongly_connected(start: str, imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """Groups of modules that import each other, often a single module; imported groups come first (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}  # the earliest visited module that is known to be reachable from this one
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(imports[module]):
            if imported not in order:
                yield from visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            first = stack.index(module)
            yield stack[first:]
            del stack[first:]

    return visit(start)


@dataclass(frozen=True)
class _Binding:
    """A name that an import binds, and the object that it is bound to."""

    name: str
    parts: tuple[Part, ...]


class _Canonical:
    """Writes a syntax tree as text, with references in place of the modules of this package that it imports.

    Equal code gives equal text in every version of Python: empty fields are omitted, because the fields of a node
    differ between versions. Docstrings, other statements that are only a constant, and `pass` are omitted too, and
    consecutive imports are sorted.
    """

    def __init__(self, modules: SourceTree, package: str):
        self._modules = modules
        self._package = package
        self._parts: list[Part] = []
        self._text: list[str] = []  # the text after the last part

    def write(self, module: ast.Module) -> Sequence[Part]:
        """The canonical text of a module, in parts."""
        self._node(module)
        return [*self._parts, "".join(self._text)]

    def _gap(self, module: Module) -> None:
        self._parts += ["".join(self._text), module]
        self._text.clear()

    def _node(self, node: ast.AST) -> None:
        kind = type(node)
        put = self._text.append
        if isinstance(node, ast.Constant):
            text = node.value
            put(_constant(text.rpartition(".")[2] if isinstance(text, str) and text in self._modules else text))
            return
        if kind is ast.Attribute and (module := self._module_at(node)):
            self._gap(Module(module))
            return
        put(f"{kind.__name__}(")
        for field in _FIELDS[kind]:
            value = getattr(node, field, None)
            if value is None or value == []:
                continue
            put(f"{field}=")
            if isinstance(value, ast.AST):
                self._node(value)
            elif isinstance(value, list):
                put("[")
                self._list(value, within=kind)
                put("]")
            else:
                put(ascii(value))
            put(",")
        put(")")

    def _list(self, values: list[Any], within: type[ast.AST]) -> None:
        if isinstance(values[0], ast.stmt):
            self._block(values)
            return
        for value in _merged(values) if within is ast.JoinedStr else values:
            if isinstance(value, ast.AST):
                self._node(value)
            else:
                self._text.append(ascii(value))  # None: an unpacked dict, or an argument without default
            self._text.append(";")

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        imports: list[_Binding] = []
        for statement in statements:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports += self._bindings(statement)
            elif not _without_effect(statement):
                self._put(imports)
                imports = []
                self._node(statement)
                self._text.append(";")
        self._put(imports)

    def _put(self, imports: list[_Binding]) -> None:
        names = [binding.name for binding in imports]
        if len(set(names)) == len(names):  # otherwise the order matters, because the last binding wins
            imports = sorted(imports, key=lambda binding: binding.name)
        for binding in imports:
            self._text.append(f"import {binding.name}=")
            for part in binding.parts:
                if isinstance(part, Module):
                    self._gap(part)
                else:
                    self._text.append(part)
            self._text.append(";")

    def _bindings(self, statement: ast.Import | ast.ImportFrom) -> Iterator[_Binding]:
        for alias in statement.names:
            if isinstance(statement, ast.Import):
                target: Part = Module(alias.name) if alias.name.startswith(f"{ROOT}.") else alias.name
                if alias.asname:
                    yield _Binding(alias.asname, (target,))
                else:  # `import a.b` binds a
                    yield _Binding(alias.name.split(".")[0], (".", target))
                continue
            source = resolve_name("." * statement.level + (statement.module or ""), self._package)
            inner = f"{source}.{alias.name}"
            ours = source.split(".")[0] == ROOT
            if ours and inner in self._modules:
                parts: tuple[Part, ...] = (Module(inner),)
            else:
                parts = (Module(source) if ours and source != ROOT else source, f":{alias.name}")
            yield _Binding(alias.asname or alias.name, parts)

    def _module_at(self, node: ast.AST) -> str | None:
        """The module or package that a complete chain of attributes names: optrepro.a.b, but not optrepro.a.b.f."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id != ROOT:
            return None
        path = ".".join([ROOT, *reversed(names)])
        return path if path in self._modules else None


def _constant(value: object) -> str:
    return f"{type(value).__name__}:{value!a}"


def _without_effect(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)


def _merged(values: Sequence[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with adjacent literals joined, because Python versions split them differently."""
    merged: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and merged and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(str(merged[-1].value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            merged.append(value)
    return merged
