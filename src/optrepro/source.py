"""What the code of this package's modules amounts to: digests that prose, formatting and place leave alone."""

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
# Positions are no fields. A name's context follows from where it stands, and `kind` tells u"" from "".
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}
_FIELDS = {
    kind: sorted(set(kind._fields) - _IGNORED_FIELDS)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


class Module(NamedTuple):
    """A module of this package, at a place in the code that imports it."""

    name: str


Part = str | Module


class SourceTree:
    """The modules below a package's folder. Each file is read once, so a later edit needs a new tree.

    The digest of a module covers its syntax tree and the digests of the modules of this package that it imports,
    anywhere in its source. Modules that import each other are digested together. Strings are code: of a module that is
    named in a string, not imported, the name alone counts.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._code: dict[str, Sequence[Part]] = {}
        self._digests: dict[str, str] = {}

    def path(self, module: str) -> Path:
        """The file of a module or a package: of this one, or one that a user has written.

        Raises: ValueError if there is none.
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
        """The modules, and all modules of this package that they import, directly or not."""
        seen: set[str] = set()
        todo = list(modules)
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo.extend(self.imports(module))
        return seen

    def digest(self, module: str) -> str:
        """SHA-256, in hexadecimal, of the code of a module and of all that it imports from this package.

        Raises: ValueError for a module that does not exist, SyntaxError for one that is not Python.
        """
        if module not in self._digests:
            for cycle in _strongly_connected(module, {name: self.imports(name) for name in self.closure(module)}):
                self._digest_together(cycle)
        return self._digests[module]

    def _digest_together(self, cycle: Sequence[str]) -> None:
        """The digests of modules that import each other, where those of all others that they import are known.

        Names tell nothing, so the modules begin as equals, and in each round a module takes up the digests that the
        others had before it. After as many rounds as there are modules, each one's code has reached all of them.
        """
        if cycle[0] in self._digests:
            return
        known = {**self._digests, **dict.fromkeys(cycle, "")}
        for _ in cycle:
            known |= {module: _filled(self.code(module), known) for module in cycle}
        self._digests |= {module: known[module] for module in cycle}

    def code(self, module: str) -> Sequence[Part]:
        """The canonical text of a module, with gaps for the modules that it names."""
        if module not in self._code:
            path = self.path(module)
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            self._code[module] = _Canonical(self, package).write(ast.parse(path.read_bytes()))
        return self._code[module]


@cache
def is_installed(module: str) -> bool:
    """Whether a module comes with Python or from a distribution, so that its version is the lock's business."""
    top = module.partition(".")[0]
    folder = None if top == ROOT else _folder(top)
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return top != ROOT and (folder is None or any(folder.is_relative_to(path) for path in installed))


def _folder(top: str) -> Path | None:
    """The folder of a package at the top level or the file of a module there; None for what has neither."""
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
    """Groups of modules that import each other, most of them of one module; imported groups first (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}  # the first module, in the order of visits, that this one is known to lead back to
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
    """One name that an import binds, and to what."""

    name: str
    parts: tuple[Part, ...]


class _Canonical:
    """Writes a syntax tree as text with gaps, one for each module of this package that it names.

    Equal code gives equal text in every version of Python: fields that are empty are left out, because versions
    differ in which ones a node has. Left out too are docstrings, other statements that are only a constant, `pass`,
    and the order of imports that stand together.
    """

    def __init__(self, modules: SourceTree, package: str):
        self._modules = modules
        self._package = package
        self._parts: list[Part] = []
        self._text: list[str] = []  # what follows the last part

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
                self._text.append(ascii(value))  # None stands where a dict is unpacked or an argument has no default
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
        if len(set(names)) == len(names):  # otherwise the last one wins, so their order is code
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
        """The module or package that a whole chain of attributes names: optrepro.a.b, but not optrepro.a.b.f."""
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
    """The parts of an f-string with its literal ones joined: versions differ in where they cut them."""
    merged: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and merged and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(str(merged[-1].value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            merged.append(value)
    return merged
