"""The built files of the client, and the npm package."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from django_wsmux import __version__
from tests.support import ROOT

from .nodes import CLIENT, STATIC, TSC, run

#: The most bytes of a module when a server compresses it.
MOST = {"client": 5 * 1024, "htmx": 1536, "stream": 2 * 1024}


def built() -> set[str]:
    """Return the names of the built files."""
    return {
        path.name
        for path in STATIC.glob("*")
        if path.name.startswith(("client.", "worker.", "htmx.", "stream."))
    }


def test_current(tmp_path: Path) -> None:
    """The files in the repository are what the source is built to."""
    run("node", "build.mjs", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == built()
    for path in tmp_path.iterdir():
        message = f"{path.name} is not current: run scripts/client"
        assert path.read_text() == (STATIC / path.name).read_text(), message


def test_size() -> None:
    """A page loads little."""
    for name, most in MOST.items():
        assert len(gzip.compress((STATIC / f"{name}.js").read_bytes(), mtime=0)) <= most


def test_source() -> None:
    """The source has no errors of types."""
    assert run("npm", "run", "--silent", "typecheck") == ""


def test_safe() -> None:
    """A policy without 'unsafe-eval' is enough, and nothing keeps a page out of the cache."""
    for name in built():
        text = (STATIC / name).read_text()
        for word in ("eval(", "new Function(", 'unload"', "innerHTML"):
            # The purpose of stream.js is to show HTML.
            is_allowed = word == "innerHTML" and name.startswith("stream.")
            assert is_allowed or word not in text, f"{name} has {word}"


def test_version() -> None:
    """The npm package has the version of the Python package."""
    for name in ("package.json", "package-lock.json"):
        assert json.loads((CLIENT / name).read_text())["version"] == __version__


def test_lock() -> None:
    """The lock file names no registry, and the package needs no other at run time."""
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    assert not any("resolved" in package for package in lock["packages"].values())
    package = json.loads((CLIENT / "package.json").read_text())
    assert "dependencies" not in package
    # Of htmx there are two.
    for version in package["devDependencies"].values():
        assert version.removeprefix("npm:htmx.org@")[0].isdigit()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the packed package."""
    packed, project = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("project")
    (report,) = json.loads(run("npm", "pack", "--silent", "--json", "--pack-destination", packed))
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--offline", "--silent", packed / report["filename"], cwd=project)
    return project


def test_package(installed: Path) -> None:
    """The package has the built files, and can be imported."""
    package = installed / "node_modules" / "django-wsmux"
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert files == {"package.json", "README.md", "LICENSE"} | {f"dist/{name}" for name in built()}
    for name in built():
        assert (package / "dist" / name).read_text() == (STATIC / name).read_text()
    program = 'import { connect, RequestError } from "django-wsmux"; console.log(typeof connect);'
    (installed / "program.mjs").write_text(program)
    assert run("node", "program.mjs", cwd=installed) == "function\n"


def test_types(installed: Path) -> None:
    """The types accept right code, and reject wrong fields, types and options."""
    shutil.copy(ROOT / "tests" / "client" / "types.ts", installed)
    options = ("--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "--types", "")
    assert run("node", TSC, *options, "types.ts", cwd=installed) == ""
