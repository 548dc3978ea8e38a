"""The structure of the package: layers, sizes, documentation."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import django_wsmux

PACKAGE = Path(django_wsmux.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The layers and libraries that each layer must not import.
FORBIDDEN = {
    "protocol": {"socket", "_socket", "gevent", "django", "gunicorn", "..server", "..exceptions"},
    "server": {"django", "gunicorn", "..handler", "..conf", "..groups", "..responses"},
    "backends": {"gunicorn", "..server", "..handler", "..conf", "..groups", "..responses"},
}

# The modules of backends/ that may import an optional library or Django. (peer.py is a program for
# tests.)
ONLY_IN = {
    "django": {"postgresql.py", "peer.py"},
    "psycopg": {"postgresql.py", "postgresql_session.py"},
    "redis": {"redis_wire.py"},
    "gevent": {"peer.py"},
    "pytest": {"contract.py"},
}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, relative ones with their dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            if node.module is None:
                yield from (dots + name.name for name in node.names)
            else:
                yield dots + node.module


def module_name(path: Path) -> str:
    """Return the dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run_at_import(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run at import: no function bodies, nothing for mypy alone."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.FunctionDef):
            continue
        is_for_types = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(
            statement.test
        )
        for name in ("orelse",) if is_for_types else ("body", "orelse", "finalbody"):
            yield from run_at_import(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from run_at_import(handler.body)


def needed(path: Path) -> set[str]:
    """Return the modules, and names in them, that must exist before a module can be imported."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path.parent)
    found = set()
    for statement in run_at_import(ast.parse(path.read_text()).body):
        if isinstance(statement, ast.Import):
            found |= {name.name for name in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            module = "." * statement.level + (statement.module or "")
            module = resolve_name(module, package).rstrip(".")
            found |= {module, *(f"{module}.{name.name}" for name in statement.names)}
    return found


def test_no_cycles() -> None:
    """Modules can be ordered so that each is imported after those that it needs."""
    modules = {module_name(path): needed(path) for path in MODULES}
    graph = {name: (names & modules.keys()) - {name} for name, names in modules.items()}
    assert graph["django_wsmux.wsgi"] >= {
        "django_wsmux.handlers.handshake",
        "django_wsmux.server.patching",
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layers(layer: str) -> None:
    """protocol/ knows no sockets, server/ no Django, backends/ no layer above it."""
    for path in (PACKAGE / layer).glob("*.py"):
        for name in imports(path):
            parts = name.lstrip(".").split(".")
            heads = {name, parts[0]} | {name[: len(name) - len(name.lstrip("."))] + parts[0]}
            assert not heads & FORBIDDEN[layer], f"{path.name} imports {name}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_of_backends(library: str) -> None:
    """A backend's library is imported by that backend only, and gevent by none."""
    found = {
        path.name
        for path in (PACKAGE / "backends").glob("*.py")
        if library in {name.split(".")[0] for name in imports(path)}
    }
    assert found == ONLY_IN[library]


def test_no_asyncio() -> None:
    """The package does not use asyncio: a running loop makes Django refuse the ORM everywhere."""
    for path in MODULES:
        assert "asyncio" not in {name.split(".")[0] for name in imports(path)}, path


def docstring_lines(tree: ast.Module) -> set[int]:
    """Return the numbers of all lines of docstrings."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines.update(range(first.lineno, (first.end_lineno or 0) + 1))
    return lines


def lines_of_code(text: str) -> set[int]:
    """Return the numbers of all lines of code, without blank lines, comments and docstrings."""
    other = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in other and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(text))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sizes(path: Path) -> None:
    """No module has more than 400 lines of code, and no function more than 60."""
    text = path.read_text()
    code = lines_of_code(text)
    assert len(code) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = len(code & set(range(node.lineno, (node.end_lineno or 0) + 1)))
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_documented(path: Path) -> None:
    """Every module has a docstring and ``__all__``; every public name has a docstring."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    assert "__all__" in path.read_text(), path
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            is_overload = "overload" in map(ast.unparse, node.decorator_list)
            assert is_overload or ast.get_docstring(node), f"{path.name}: {node.name}"


def test_exports_exist() -> None:
    """Each name in an ``__all__`` exists."""
    for info in pkgutil.walk_packages([str(PACKAGE)], "django_wsmux."):
        if info.name == "django_wsmux.admin":
            continue  # imported only in projects with an admin, such as the sample site
        if info.name == "django_wsmux.protocol._speedups":
            continue  # written in C
        module = importlib.import_module(info.name)
        for name in module.__all__:
            assert hasattr(module, name), f"{info.name}.{name}"


def test_worker_without_django() -> None:
    """The worker imports no Django: gunicorn imports it before it patches the process."""
    program = "import sys, django_wsmux.worker; sys.exit('django' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, check=True)
