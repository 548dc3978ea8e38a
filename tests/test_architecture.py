"""The structure of the package and of its tests: layers, sizes, names, documentation."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil
import re
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

#: What each subpackage, or module at the root, may import from the package. Each may import itself
#: and ``logs``. Imports for types and in functions count, too.
ALLOWED = {
    "": "",
    "logs": "",
    "protocol": "",
    "exceptions": "protocol",
    "signals": "",
    "connection": "protocol exceptions",
    "websocket": "connection",
    "transports": "connection protocol",
    "server": "transports connection protocol",
    "backends": "exceptions",
    "conf": "backends protocol exceptions",
    "history": "backends protocol conf exceptions",
    "presence": "history backends conf exceptions",
    "groups": "presence history backends connection protocol conf signals exceptions",
    "responses": "connection handlers.context",
    "requests": "connection exceptions",
    "handlers": "requests groups server connection protocol responses conf signals exceptions",
    "auth": "handlers groups responses server connection protocol conf exceptions",
    "decorators": "auth handlers groups responses connection exceptions",
    "views": "auth handlers groups requests responses connection protocol",
    "scripts": "",
    "urls": "conf scripts",
    "monitoring": "history groups server connection protocol views conf signals exceptions",
    "html": "views auth handlers groups requests responses connection protocol conf exceptions",
    "schema": "views handlers",
    "templatetags": "urls scripts html decorators groups auth monitoring",
    "models": "",
    "migrations": "",
    "worker": "groups server connection protocol conf",
    "checks": "management groups history server connection protocol conf exceptions",
    "view_checks": "auth conf",
    "apps": "checks view_checks monitoring groups conf",
    "admin": "monitoring groups models urls conf exceptions",
    "wsgiref": "server",
    "wsgi": "monitoring handlers groups server conf exceptions",
    "test": "testing exceptions",
    "testing": "test wsgi monitoring handlers presence history groups server transports connection "
    "protocol conf backends signals exceptions",
    "management": "schema wsgi templatetags monitoring groups server transports connection conf "
    "backends testing exceptions",
}

#: Modules that may import more than their subpackage.
EXCEPTIONS = {
    # The test suite for third-party backends starts processes.
    "django_wsmux.backends.contract": {"testing"},
}

#: The libraries that a subpackage must not import.
NO_LIBRARIES = {
    "protocol": {"socket", "_socket", "gevent", "django", "gunicorn"},
    "connection": {"gevent", "django", "gunicorn"},
    "transports": {"django", "gunicorn"},
    "server": {"django", "gunicorn"},
    "backends": {"gunicorn"},
}

# The modules of backends/ that may import an optional library, or Django.
ONLY_IN: dict[str, set[str]] = {
    "django": {"postgresql.py"},
    "psycopg": {"postgresql.py", "postgresql_connection.py"},
    "redis": {"redis_connection.py"},
    "gevent": set(),
    "pytest": {"contract.py"},
}

#: The public modules. All other subpackages are private, and their docstrings say so.
PUBLIC = {
    "decorators",
    "views",
    "requests",
    "responses",
    "websocket",
    "urls",
    "signals",
    "exceptions",
    "test",
    "wsgi",
    "wsgiref",
    "worker",
    "backends",
    "groups",
    "html",
    "auth",
    "monitoring",
}

TESTS = Path(__file__).parent

#: Modules without a test module of their own, and the reason.
WITHOUT_TESTS = {
    "admin.py": "monitoring/test_page.py tests its page",
    "backends/contract.py": "a test suite, which the tests of each backend run",
    "groups/presence_hooks.py": "an interface; groups/test_presence.py implements it",
    "groups/presence_jobs.py": "a part of groups/presence.py",
    "groups/results.py": "types only",
    "handlers/arriving.py": "handlers/test_moving.py tests it",
    "handlers/identities.py": "handlers/test_remaking.py tests it",
    "handlers/interfaces.py": "types only",
    "html/rules.py": "html/test_broadcasting.py tests it",
    "history/chosen.py": "history/test_stores.py and presence/test_stores.py test it",
    "history/incarnation.py": "a part of history/postgresql.py and presence/postgresql.py",
    "history/patterns.py": "the tests of groups with a history use patterns",
    "history/postgresql_statements.py": "texts only, which history/test_postgresql.py runs",
    "history/redis_scripts.py": "texts only, which history/test_redis.py runs",
    "history/sqlite_base.py": "a part of history/sqlite.py and presence/sqlite.py",
    "history/sqlite_file.py": "a part of history/sqlite.py and presence/sqlite.py",
    "history/sqlite_statements.py": "texts only, which history/test_sqlite.py runs",
    "history/sqlite_sweep.py": "a part of history/sqlite.py",
    "history/sqlite_tables.py": "a part of history/sqlite.py",
    "history/store.py": "an interface; history/contract.py tests each store",
    "migrations/": "test_models.py compares them with the models",
    "presence/redis_life_scripts.py": "texts only, which presence/test_redis.py runs",
    "presence/redis_scripts.py": "texts only, which presence/test_redis.py runs",
    "presence/postgresql_statements.py": "texts only, which presence/test_postgresql.py runs",
    "presence/sqlite_statements.py": "texts only, which presence/test_sqlite.py runs",
    "presence/store.py": "an interface; presence/contract.py tests each store",
    "protocol/assembler.py": "a part of the codec",
    "protocol/events.py": "types only",
    "server/answer.py": "compat/test_wrappers.py tests it with real middleware",
    "server/mover.py": "an interface; test_handover.py moves sockets with one",
    "signals.py": "names only",
    "test.py": "names only",
    "testing/backend_process.py": "the program of backends/contract.py",
    "testing/memory_client.py": "the other end of each socket in testing/test_client.py",
    "websocket.py": "names only",
    "wsgiref.py": "names only",
}

#: Test modules of the mirrored folders that are not named after a module, and the reason.
WITHOUT_MODULE = {
    "backends/test_from_url.py": "tests backends/__init__.py",
    "connection/test_reactor.py": "tests connection/reactor/*.c",
    "protocol/test_speedups.py": "tests protocol/_speedups.c",
    "test_architecture.py": "tests all modules",
    "test_combinations.py": "tests tests/combinations.py",
    "test_main.py": "tests tests/__main__.py",
    "test_nightly.py": "tests tests/nightly.py",
    "test_package.py": "tests the distributions",
}

#: Folders of tests that concern no single module.
NOT_MIRRORED = {"client", "compat", "compliance", "functional", "fuzzing", "manual", "sample_site"}


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
    """Yield the statements that run at import: no function bodies, no imports for types."""
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


def imported(path: Path, *, at_import: bool) -> Iterator[tuple[int, str]]:
    """Yield line and name of each module of the package that a module imports.

    Args:
        path: the module's file.
        at_import: leave out imports in functions and for types.
    """
    package = module_name(path) if path.name == "__init__.py" else module_name(path.parent)
    tree = ast.parse(path.read_text())
    for node in run_at_import(tree.body) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name in NAMES)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package).rstrip(".")
            for name in node.names:
                full = f"{source}.{name.name}"
                if full in NAMES or source in NAMES:
                    yield node.lineno, full if full in NAMES else source


def room_of(name: str) -> str:
    """Return the subpackage of a module, or the name of a module at the root."""
    return name.removeprefix("django_wsmux").lstrip(".").partition(".")[0]


NAMES = {module_name(path): path for path in MODULES}


@pytest.mark.parametrize("is_for_types", [False, True])
def test_no_cycles(is_for_types: bool) -> None:
    """No module imports itself, directly or indirectly."""
    graph = {
        name: {other for _, other in imported(path, at_import=not is_for_types)} - {name}
        for name, path in NAMES.items()
    }
    if is_for_types:
        # Commands and test programs are imported by name, and a package imports its modules.
        graph = {name: found - {"django_wsmux"} for name, found in graph.items()}
    assert graph["django_wsmux.wsgi"] >= {
        "django_wsmux.handlers.handler",
        "django_wsmux.server.patching",
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", NAMES)
def test_rooms(name: str) -> None:
    """Imports go one way: a module imports only what ``ALLOWED`` lists for its subpackage."""
    room = room_of(name)
    allowed = {room, "logs", "", *ALLOWED[room].split(), *EXCEPTIONS.get(name, ())}
    for line, other in imported(NAMES[name], at_import=False):
        named = {room_of(other), other.removeprefix("django_wsmux.")}
        assert named & allowed, f"{name}, line {line}, imports {other}"


@pytest.mark.parametrize("room", NO_LIBRARIES)
def test_libraries(room: str) -> None:
    """No subpackage below handlers/ imports Django; those below transports/ import no gevent."""
    for path in (PACKAGE / room).glob("*.py"):
        found = {name.split(".")[0] for name in imports(path)} & NO_LIBRARIES[room]
        assert not found, f"{path.name} imports {found}"


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if path.is_dir()))
def test_private(room: str) -> None:
    """The docstring of each private subpackage says that it is private."""
    init = PACKAGE / room / "__init__.py"
    if init.exists() and room in ALLOWED and room not in PUBLIC:
        doc = ast.get_docstring(ast.parse(init.read_text())) or ""
        is_for_django = room in ("management", "migrations", "templatetags")
        assert doc.startswith("Private: ") or is_for_django, doc


def test_public_names() -> None:
    """The manual, the sample site and the README use public modules only."""
    root = PACKAGE.parent
    texts = [
        root / "README.rst",
        *(root / "docs").glob("*.rst"),
        *(root / "sample_site").rglob("*.py"),
    ]
    for path in texts:
        for name in re.findall(r"(?:from|import) (django_wsmux\b[\w.]*)", path.read_text()):
            parts = name.rstrip(".").split(".")[1:]
            assert not parts or parts[0] in PUBLIC, f"{path.name}: {name}"
            is_package = parts and (PACKAGE / parts[0]).is_dir()
            known = (["monitoring"], ["backends"])
            assert len(parts) < 2 or (is_package and parts[:1] in known), f"{path.name}: {name}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_of_backends(library: str) -> None:
    """Only a backend itself imports its library, and none imports gevent."""
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


def test_no_shared_random() -> None:
    """The package does not use the random numbers of the process, which a project may seed."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert "random" not in {name.name for name in node.names}, path
            elif isinstance(node, ast.ImportFrom) and node.module == "random":
                assert {name.name for name in node.names} == {"SystemRandom"}, path


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
        if info.name.endswith(("._speedups", "._reactor")):
            continue  # written in C
        module = importlib.import_module(info.name)
        for name in module.__all__:
            assert hasattr(module, name), f"{info.name}.{name}"


def test_worker_without_django() -> None:
    """The worker imports no Django: gunicorn imports it before it patches the process."""
    program = "import sys, django_wsmux.worker; sys.exit('django' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, check=True)


#: A process that uses sockets and groups, but keeps no messages.
_PLAIN = """
import sys
from django.conf import settings
settings.configure(
    SECRET_KEY="x" * 50, ROOT_URLCONF=__name__, WEBSOCKET_URLCONF=__name__,
    ALLOWED_HOSTS=["*"], WEBSOCKET_BACKEND="memory://", INSTALLED_APPS=["django_wsmux"],
)
import django
django.setup()
from django.urls import path
from django_wsmux.groups import Group
from django_wsmux.test import WebSocketClient
from django_wsmux.views import WebSocketView

class Room(WebSocketView):
    groups = ["room"]

    def receive(self, message):
        Group("room").send(message)

urlpatterns = [path("room/", Room.as_view())]
with WebSocketClient().websocket("/room/") as ws:
    ws.send("hi")
    assert ws.receive() == "hi"
unwanted = {
    "django_wsmux.history", "django_wsmux.groups.sequencer", "sqlite3", "redis", "psycopg",
    "django_wsmux.handlers.once", "django_wsmux.handlers.htmx", "django_wsmux.html",
    "django_wsmux.monitoring.tracing", "opentelemetry",
    "django_wsmux.presence", "django_wsmux.groups.presence", "django_wsmux.groups.watching",
}
sys.exit(", ".join(unwanted & sys.modules.keys()) or None)
"""


def test_unused_modules() -> None:
    """A process imports no module of histories, presence or HTML unless it is used."""
    subprocess.run([sys.executable, "-c", _PLAIN], cwd=PACKAGE.parent, check=True)


def test_modules_have_tests() -> None:
    """The tests of ``room/module.py`` are in ``tests/room/test_module.py``."""
    for path in MODULES:
        name = str(path.relative_to(PACKAGE))
        test = TESTS / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
        is_excused = path.name == "__init__.py" or name.startswith(tuple(WITHOUT_TESTS))
        assert test.exists() or is_excused, f"{name} has no {test.relative_to(TESTS)}"
    for name in WITHOUT_TESTS:
        test = TESTS / Path(name).with_name(f"test_{Path(name).name}")
        assert (PACKAGE / name).exists(), f"{name} does not exist"
        assert not test.exists(), f"{name} has tests: remove it from WITHOUT_TESTS"


def test_tests_have_modules() -> None:
    """A test module has the name of its module; the name of a topic may follow."""
    for path in sorted(TESTS.rglob("test_*.py")):
        where = path.relative_to(TESTS)
        if where.parts[0] in NOT_MIRRORED or str(where) in WITHOUT_MODULE:
            continue
        words = path.stem.split("_")[1:]
        names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
        modules = [PACKAGE / where.with_name(f"{name}.py") for name in names]
        assert any(module.exists() for module in modules), f"{where} tests no module of its name"
    for name in WITHOUT_MODULE:
        assert (TESTS / name).exists(), f"{name} does not exist"


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_first_lines(path: Path) -> None:
    """The first line of a test module says what it covers."""
    assert (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0].endswith(".")
