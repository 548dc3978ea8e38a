"""Reads values of a WSGI environ as text for people: logs, tables, messages.

The strings of an environ are bytes as Latin-1 (PEP 3333). Django decodes two of them in place: once
its request is made, ``PATH_INFO`` and ``SCRIPT_NAME`` are text. The functions here return the same
before and after that, because ``keep_wire_path()`` leaves a note if the two differ. All other code
uses these functions, and decodes or quotes nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

__all__ = ["WIRE_PATH_KEY", "header", "keep_wire_path", "wire_path", "wire_url"]

#: The key of the path as the client quoted it. Absent if the path is plain ASCII, which is the same
#: as text and as a WSGI string.
WIRE_PATH_KEY: Final = "django_wsmux.wire_path"

# RFC 3986 section 3.3, and further characters that need no quoting in a log.
_SAFE_IN_PATH: Final = "/!$&'()*+,;=:@"
_SAFE_IN_QUERY: Final = f"{_SAFE_IN_PATH}?%"


def wire_path(environ: Mapping[str, Any]) -> str:
    """Return the path of a request, quoted as in its URL, with ``SCRIPT_NAME``."""
    path: str | None = environ.get(WIRE_PATH_KEY)
    return path if path is not None else _quoted(_path(environ))


def wire_url(environ: Mapping[str, Any]) -> str:
    """Return the path of a request with its query string."""
    query = environ.get("QUERY_STRING", "")
    path = wire_path(environ)
    return f"{path}?{_quoted(query, _SAFE_IN_QUERY)}" if query else path


def header(environ: Mapping[str, Any], name: str) -> str | None:
    """Return a header as text; bytes that are not UTF-8 are escaped.

    Args:
        environ: the environ of the request.
        name: the key, such as ``HTTP_ORIGIN``.
    """
    value: str | None = environ.get(name)
    if value is None or value.isascii():
        return value
    return value.encode("latin-1", "backslashreplace").decode("utf-8", "backslashreplace")


def keep_wire_path(environ: dict[str, Any], path_info: str) -> None:
    """Keep the path of an environ that Django has decoded, if that changed it.

    Args:
        environ: the environ after Django has decoded it.
        path_info: its ``PATH_INFO`` before that.
    """
    script_name = environ["SCRIPT_NAME"]
    if environ["PATH_INFO"] != path_info or not script_name.isascii():
        script_name = script_name.encode().decode("latin-1")
        path = _path({"SCRIPT_NAME": script_name, "PATH_INFO": path_info})
        environ[WIRE_PATH_KEY] = _quoted(path)


def _path(environ: Mapping[str, Any]) -> str:
    script_name, path_info = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
    # One slash between the two, as in Django's request.path.
    return f"{script_name.rstrip('/')}{path_info}" if script_name else str(path_info)


def _quoted(text: str, safe: str = _SAFE_IN_PATH) -> str:
    """Quote a WSGI string; never fails, because middleware may have put anything there."""
    return quote(text, safe, encoding="latin-1", errors="backslashreplace")
