"""The distributions: built, inspected, installed without other packages, imported."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import greenlet
import pytest
import yaml

from django_wsmux import __version__
from tests.manual.links import broken_in_description, metadata_of, render
from tests.support import ROOT

#: Needed by tests and scripts, besides the package.
DIRECTORIES = (".github", "bench", "client", "docs", "sample_site", "scripts", "tests")
FILES = (
    *(".ruff.toml", "CHANGELOG.rst", "CONTRIBUTING.rst", "LICENSE", "MANIFEST.in", "README.rst"),
    *("SECURITY.rst", "pyproject.toml", "setup.cfg", "setup.py"),
)

#: Files that may lie in a working tree and must not be published.
JUNK = (
    *("bench/wsload", "client/node_modules/x.js", "client/dist/client.js"),
    *("docs/_build/index.html", "sample_site/db.sqlite3", "tests/support.pyc"),
    "django_wsmux/protocol/_speedups.cpython-310-x86_64-linux-gnu.so",
    "django_wsmux/connection/_reactor.cpython-310-x86_64-linux-gnu.so",
)

#: What a release sets.
REPOSITORY = "https://github.com/owner/name"
RELEASE = {"REPOSITORY_URL": REPOSITORY, "SOURCE_DATE_EPOCH": "1700000000"}

#: The modules in C, and where their sources are.
EXTENSIONS = {
    "django_wsmux.connection._reactor": "django_wsmux/connection/reactor/*.c",
    "django_wsmux.protocol._speedups": "django_wsmux/protocol/_speedups.c",
}


def built_as(name: str) -> str:
    """Return the name of the file in which Python looks for a module in C."""
    return name.replace(".", "/") + str(sysconfig.get_config_var("EXT_SUFFIX"))


#: Can be imported without settings and without a server.
PUBLIC = (
    "auth",
    "backends",
    "decorators",
    "exceptions",
    "groups",
    "monitoring.metrics",
    "signals",
    "test",
    "urls",
    "views",
    "websocket",
    "wsgi",
)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program with this Python, without the settings of the tests; return its output."""
    return run_with({}, *command, cwd=cwd)


def run_with(variables: dict[str, str], *command: str | Path, cwd: Path) -> str:
    """Run it with further variables in the environment."""
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    result = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def files_in(directory: Path) -> set[str]:
    """Return the paths of all files below a directory, relative to it."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Built:
    """The result of ``python -m build``, run in a copy, as it leaves files behind."""

    source: Path
    tree: set[str]
    said: str

    @property
    def wheel(self) -> Path:
        """The wheel, built from the sdist."""
        (path,) = (self.source / "dist").glob("*.whl")
        return path

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        (path,) = (self.source / "dist").glob("*.tar.gz")
        return path

    @property
    def metadata(self) -> Message:
        """The metadata of the wheel."""
        return metadata_of(self.wheel)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions."""
    source = tmp_path_factory.mktemp("package") / "source"
    source.mkdir()
    caches = shutil.ignore_patterns(
        *("__pycache__", "_build", "node_modules", "wsload", "*.pyc", "*.so", "*.sqlite3"),
        "dist",
    )
    for name in (*DIRECTORIES, "django_wsmux"):
        shutil.copytree(ROOT / name, source / name, ignore=caches)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    tree = files_in(source)
    for name in JUNK:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    said = run_with(RELEASE, "-m", "build", "--no-isolation", cwd=source)
    return Built(source, tree, said)


def test_builds_clean(built: Built) -> None:
    """Building warns of no deprecated feature, and the checking tools find nothing."""
    assert "Deprecat" not in built.said
    assert "OK" in run("-m", "check_wheel_contents", built.wheel, cwd=built.source)
    # Renders README as a package index does.
    run("-m", "twine", "check", "--strict", built.wheel, built.sdist, cwd=built.source)


def test_sdist(built: Built) -> None:
    """The sdist has everything that its tests and scripts need, and no stray files."""
    with tarfile.open(built.sdist) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
        (script,) = (member for member in sdist if member.name.endswith("/scripts/test"))
    generated = {name for name in names if name.startswith("django_wsmux.egg-info/")}
    assert names - generated - {"PKG-INFO"} == built.tree
    assert script.mode & 0o100


def test_reproducible(built: Built, tmp_path: Path) -> None:
    """The files of the sdist, at another time and with other permissions, make the same sdist."""
    shutil.unpack_archive(built.sdist, tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for path in unpacked.rglob("*"):
        os.utime(path)
        path.chmod(path.stat().st_mode & ~0o077)
    again = {"SOURCE_DATE_EPOCH": RELEASE["SOURCE_DATE_EPOCH"]}
    run_with(again, "-m", "build", "--no-isolation", "--sdist", cwd=unpacked)
    assert (unpacked / "dist" / built.sdist.name).read_bytes() == built.sdist.read_bytes()


def test_description(built: Built) -> None:
    """Links of the description and beside it lead to files of this version, and pictures are
    there.
    """
    assert metadata_of(built.sdist).as_string() == built.metadata.as_string()
    assert broken_in_description(built.metadata) == []
    html = render(built.metadata)
    assert f'href="{REPOSITORY}/blob/{__version__}/docs/index.rst"' in html
    assert f'src="{REPOSITORY}/raw/{__version__}/docs/images/' in html
    assert "Source, " + REPOSITORY in built.metadata.get_all("Project-URL", [])


def test_broken_links(built: Built) -> None:
    """Relative links, and links to missing files and anchors, would be noticed."""
    metadata = built.metadata
    wrong = ["docs/index.rst", f"{REPOSITORY}/blob/{__version__}/gone.rst", f"{REPOSITORY}/gone"]
    metadata.set_payload("\n".join(f"`{number} <{url}>`_" for number, url in enumerate(wrong)))
    assert [error.rpartition(": ")[0] for error in broken_in_description(metadata)] == wrong


def test_description_without_a_repository(built: Built, tmp_path: Path) -> None:
    """A build that does not know the repository makes a description without links to files."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("README.rst", "LICENSE", "pyproject.toml", "setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, source)
    (source / "django_wsmux").mkdir()
    shutil.copy(ROOT / "django_wsmux" / "__init__.py", source / "django_wsmux")
    program = "from setuptools import build_meta as m; m.prepare_metadata_for_build_wheel('.')"
    run_with({"REPOSITORY_URL": ""}, "-c", program, cwd=source)
    (path,) = source.glob("*.dist-info/METADATA")
    metadata = Parser().parsestr(path.read_text())
    assert metadata.get_all("Project-URL") is None
    assert broken_in_description(metadata) == []
    html = render(metadata)
    assert "<img" not in html
    words = [re.sub("<[^>]+>", "", each).split() for each in (html, render(built.metadata))]
    assert words[0] == words[1]


def test_wheel(built: Built) -> None:
    """The wheel contains the package with templates, static files, migrations and, where the tests
    run with it, the compiled extension, and nothing else.
    """
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
    described = {name for name in names if ".dist-info/" in name}
    package = {name for name in built.tree if name.startswith("django_wsmux/")}
    package = {name for name in package if not name.endswith((".c", ".h"))}
    package |= {built_as(name) for name in EXTENSIONS if find_spec(name) is not None}
    assert names - described == package
    for path in (
        "migrations/0001_initial.py",
        "py.typed",
        "static/django_wsmux/client.d.ts",
        "static/django_wsmux/client.js",
        "static/django_wsmux/client.js.map",
        "static/django_wsmux/htmx.js",
        "static/django_wsmux/overview.js",
        "templates/admin/django_wsmux/overview.html",
    ):
        assert f"django_wsmux/{path}" in package
    assert any(name.endswith("/LICENSE") for name in described)


def test_installs(built: Built, tmp_path: Path) -> None:
    """The package imports without other packages; with its libraries, these modules import without
    settings or gunicorn.
    """
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    run(*pip, "--no-deps", "--target", tmp_path, built.wheel, cwd=tmp_path)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import django_wsmux as package;"
    program += "print(package.__version__, package.__file__)"
    said = run("-I", "-S", "-c", program, cwd=tmp_path)
    assert said.split() == [__version__, str(tmp_path / "django_wsmux" / "__init__.py")]
    program += "; sys.modules['gunicorn'] = None"
    program += "".join(f"; import django_wsmux.{name}" for name in PUBLIC)
    run("-I", "-W", "error", "-c", program, cwd=tmp_path)


def test_without_a_compiler(built: Built, tmp_path: Path) -> None:
    """The wheel builds without a compiler, and Python code replaces the extension."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    shutil.unpack_archive(built.sdist, source, filter="data")
    (unpacked,) = source.iterdir()
    run_with({"CC": "false"}, "-m", "build", "--no-isolation", "--wheel", cwd=unpacked)
    (wheel,) = (unpacked / "dist").glob("*.whl")
    assert "OK" in run("-m", "check_wheel_contents", wheel, cwd=unpacked)
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    run(*pip, "--no-deps", "--target", target, wheel, cwd=source)
    assert {name for name in files_in(target) if name.endswith((".c", ".so"))} == set()
    program = f"import sys; sys.path.insert(0, {str(target)!r});"
    program += "from django_wsmux.connection.link import is_compiled; assert not is_compiled;"
    program += "from django_wsmux.protocol import codec, masking;"
    program += "assert codec.unmask is masking._unmask; c, messages = codec.Codec(9), [];"
    program += "c.receive(b'\\x81\\x82\\1\\2\\3\\4ik', messages); print(codec.__file__, messages)"
    said = run("-I", "-W", "error", "-c", program, cwd=source)
    assert said.split() == [str(target / "django_wsmux" / "protocol" / "codec.py"), "['hi']"]


#: Builds a wheel as pip does: in a process that has what pyproject.toml asks for, and nothing else.
BUILD = """
import sys
sys.path.append(sys.argv[1])
from setuptools import build_meta
build_meta.build_wheel("dist")
"""


def isolated(built: Built, directory: Path, *, required: tuple[str, ...]) -> tuple[set[str], str]:
    """Build a wheel where only these packages are installed; return its files and the output."""
    source, libraries = directory / "source", directory / "libraries"
    libraries.mkdir(parents=True)
    shutil.unpack_archive(built.sdist, source, filter="data")
    for name in required:
        files = metadata.files(name)
        assert files is not None
        for top in {file.parts[0] for file in files} - {".."}:
            (libraries / top).symlink_to(str(metadata.distribution(name).locate_file(top)))
    (unpacked,) = source.iterdir()
    said = run("-I", "-S", "-c", BUILD, libraries, cwd=unpacked)
    (path,) = (unpacked / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist()), said


def needed_by_build() -> list[str]:
    """Return what pip installs before it builds the package."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        required: list[str] = tomllib.load(file)["build-system"]["requires"]
    return required


def test_what_a_build_needs(built: Built, tmp_path: Path) -> None:
    """All that pip installs for a build is enough for the extensions; without greenlet, one of them
    is left out, and the build says why.
    """
    names = tuple(re.findall(r"^\w+", line)[0] for line in needed_by_build())
    wheel, said = isolated(built, tmp_path / "all", required=names)
    compiled = {name for name in wheel if name.endswith(".so")}
    assert compiled == {built_as(name) for name in EXTENSIONS if find_spec(name) is not None}
    assert ("IS NOT COMPILED" in said) is (not compiled)
    wheel, said = isolated(built, tmp_path / "less", required=("setuptools",))
    assert compiled - wheel == compiled & {built_as("django_wsmux.connection._reactor")}
    assert "django_wsmux.connection._reactor IS NOT COMPILED" in said
    assert "greenlet is not installed where the package is built" in said


def needs_compiler() -> None:
    """Skip a test that calls gcc itself."""
    include = sysconfig.get_path("include")
    if not (shutil.which("gcc") and Path(include, "Python.h").exists()):
        pytest.skip("gcc or Python.h is not installed")


def test_headers(built: Built, tmp_path: Path) -> None:
    """A change of a header compiles the extensions again."""
    needs_compiler()
    shutil.unpack_archive(built.sdist, tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    header = unpacked / "django_wsmux/connection/reactor/new.h"
    header.touch()
    build = ("setup.py", "build_ext", "--inplace")
    run(*build, cwd=unpacked)
    paths = [unpacked / built_as(name) for name in EXTENSIONS]
    at_first = [path.stat().st_mtime_ns for path in paths]
    run(*build, cwd=unpacked)
    assert [path.stat().st_mtime_ns for path in paths] == at_first
    newest = max(at_first) + 10**9
    os.utime(header, ns=(newest, newest))
    run(*build, cwd=unpacked)
    assert all(path.stat().st_mtime_ns != at for path, at in zip(paths, at_first, strict=True))


@pytest.mark.parametrize("name", EXTENSIONS)
def test_compiles_clean(name: str, tmp_path: Path) -> None:
    """gcc reports no warnings."""
    needs_compiler()
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fPIC", "-c"]
    # Of other software: gcc reports no warnings of its own about these.
    others = sysconfig.get_path("include"), Path(greenlet.__file__).parents[1]
    for source in ROOT.glob(EXTENSIONS[name]):
        subprocess.run(
            [*command, source, *(f"-isystem{other}" for other in others)], cwd=tmp_path, check=True
        )


def test_version(built: Built) -> None:
    """The version is defined in one place, and is that of the newest entry in the changelog."""
    assert built.metadata["Version"] == __version__
    titles = re.findall(r"^(.+)\n---+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert titles[0].split()[0] == __version__


# Tested versions


def listed(section: str, option: str) -> list[str]:
    """Return the lines of an option in ``setup.cfg``."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser[section][option].split("\n")


def test_oldest_is_the_lower_bound() -> None:
    """tox tests the oldest allowed version of each library that the package uses."""
    required = listed("options", "install_requires")
    for extra in ("otel", "postgres", "prometheus", "redis"):
        required += listed("options.extras_require", extra)
    # An authenticator uses it, without an extra of its own.
    required += [line for line in listed("options.extras_require", "test") if "framework" in line]
    # gevent asks for it.
    required += [line for line in needed_by_build() if "greenlet" in line]
    bounds = {line.replace("gunicorn[gevent]", "gunicorn").replace(">=", "==") for line in required}
    pins = {line.partition(": ")[2] for line in listed("testenv", "deps") if "oldest:" in line}
    assert pins == bounds - {""}


def test_classifiers_are_tested(built: Built) -> None:
    """The classifiers of Python and Django are the versions that tox tests."""
    classified = {
        text.replace("Programming Language :: Python", "py").replace(
            "Framework :: Django", "django"
        )
        for text in built.metadata.get_all("Classifier", [])
        if re.search(r":: (Python|Django) :: \d+\.", text)
    }
    environments = " ".join(listed("tox:tox", "env_list"))
    tested = {f"py :: 3.{minor}" for minor in re.findall(r"py3(\d+)", environments)}
    factors = re.findall(r"\d\d", " ".join(re.findall(r"django\{?([\d,]+)", environments)))
    tested |= {f"django :: {factor[0]}.{factor[1]}" for factor in factors}
    assert classified == tested


# The release


def test_wheels(built: Built) -> None:
    """Wheels are built for each classified Python, and are tested with both extensions in C."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        config = tomllib.load(file)["tool"]["cibuildwheel"]
    minors = {
        text.rpartition(".")[2]
        for text in built.metadata.get_all("Classifier", [])
        if re.search(r"Python :: 3\.\d", text)
    }
    assert {f"cp3{minor}-*" for minor in minors} <= set(config["build"].split())
    imports, tests = config["test-command"]
    assert all(name in imports for name in EXTENSIONS)
    for path in [*config["test-sources"], *re.findall(r"tests/\S+", tests)]:
        assert (ROOT / path).exists(), path


def test_workflow() -> None:
    """The workflow publishes tagged versions after all checks, with no secret but its identity."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    workflow = yaml.safe_load(text)
    assert "secrets." not in text
    assert workflow[True].keys() == {"push", "workflow_dispatch"}  # "on" is a boolean of YAML
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    publish = jobs.pop("publish")
    assert publish["if"] == "github.event_name == 'push'"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert publish["needs"] == "check"
    assert set(jobs["check"]["needs"]) == {"sdist", "wheels"}
    assert all("permissions" not in job for job in jobs.values())
    steps = [step for job in (publish, *jobs.values()) for step in job["steps"]]
    assert all(re.search(r"@(release/)?v\d+$", each.get("uses", "@v1")) for each in steps)
    commands = [step.get("run", "") for step in jobs["sdist"]["steps"]]
    assert "scripts/release" in commands
    assert os.access(ROOT / "scripts" / "release", os.X_OK)
