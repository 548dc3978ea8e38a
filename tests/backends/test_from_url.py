"""The backend that a URL names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from django_wsmux.backends import SCHEMES, Backend, from_url
from django_wsmux.backends.local import LocalBackend

from .test_base import Null


def test_local() -> None:
    """local:// needs no library."""
    backend = from_url("local://", namespace="mysite")
    assert isinstance(backend, LocalBackend)
    assert (backend.namespace, backend.name) == ("mysite", "local://")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(scheme: str) -> None:
    """Every scheme makes a backend without connecting."""
    hosts = {"local": "", "postgres": "", "redis+unix": "/nowhere"}
    host = hosts.get(scheme, "127.0.0.1:1/service")
    assert isinstance(from_url(f"{scheme}://{host}"), Backend)


@pytest.mark.parametrize("url", ["kafka://host", "local", "", "redi://x"])
def test_unknown(url: str) -> None:
    """An unknown scheme is refused; the error lists those that exist."""
    with pytest.raises(ValueError, match=r"unknown backend .*local://, redis://.*dotted path"):
        from_url(url)


def test_third_party() -> None:
    """A dotted path is imported; URL and namespace are passed to it."""
    backend = from_url(f"{__name__}.Null://user:secret@host/x?a=1&namespace=n&b=", namespace="m")
    assert isinstance(backend, Null)
    assert backend.url.endswith("@host/x?a=1&b=")
    assert backend.namespace == "n"
    assert backend.name == f"{__name__}.Null://host/x"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no.such.Backend", "No module named 'no'"),
        (f"{__name__}.Missing", "has no attribute 'Missing'"),
        ("builtins.dict", "builtins.dict is not a subclass"),
    ],
)
def test_invalid_dotted_path(path: str, problem: str) -> None:
    """The error says what is wrong with a dotted path."""
    with pytest.raises(ValueError, match=problem):
        from_url(f"{path}://")


@pytest.mark.parametrize(("scheme", "library"), [("redis", "redis"), ("postgres", "psycopg")])
def test_library_missing(scheme: str, library: str) -> None:
    """The error names the package to install."""
    code = (
        "import sys\n"
        f"sys.modules[{library!r}] = None\n"
        "from django_wsmux.backends import from_url\n"
        f"from_url('{scheme}://')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'pip install "django-wsmux[{scheme}]"' in result.stderr
