"""Namespaces: only processes of the same namespace exchange messages."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.utils.crypto import salted_hmac

from .. import conf
from ..backends import from_url
from ..backends.private_directory import PrivateDirectory
from ..exceptions import BackendUnavailable

__all__ = [
    "backend_problem",
    "doubts",
    "has_private_tmp",
    "namespace",
    "place",
    "private_directory",
]

#: Names of folders that contain a folder for each release.
_HOLDERS: Final = frozenset({"builds", "deploys", "deployments", "releases", "versions"})

#: Names of the folders of releases: a time, a hash, a version.
_RELEASE: Final = re.compile(
    r".*\d{8}.*|.*\d{4}[-_.]\d\d[-_.]\d\d.*|\d{6,}|(?=.*\d)(?=.*[a-f])[0-9a-f]{7,64}"
    r"|v?\d+(\.\d+)+|(v|rel|release|build)[-_]?\d+",
    re.IGNORECASE,
)


def namespace() -> str:
    """Return a name that tells this project from others on the same machine or broker."""
    name: str = conf.get("WEBSOCKET_NAMESPACE")
    if name:
        return name
    # A second copy of a project has the same SECRET_KEY, but is in another folder.
    # A project that serves only sockets has no ROOT_URLCONF.
    value = f"{getattr(settings, 'ROOT_URLCONF', '')}|{_folder()}"
    return salted_hmac("django_wsmux.groups", value, algorithm="sha256").hexdigest()[:16]


def backend_problem() -> BackendUnavailable | None:
    """Return why the backend cannot listen in a process like this one, if that is known."""
    url = conf.get("WEBSOCKET_BACKEND")
    if url == "memory://" or (url.startswith("local:") and sys.platform == "win32"):
        return None
    try:
        from_url(url, namespace=namespace()).rehearse()
    except BackendUnavailable as error:
        return error
    return None


def place() -> str:
    """Return the directory or broker through which processes of this project communicate."""
    return from_url(conf.get("WEBSOCKET_BACKEND"), namespace=namespace()).place


def private_directory() -> str:
    """Make the directory of this project on this machine, if it is missing; return its path.

    Raises:
        BackendUnavailable: this is not possible.
    """
    url: str = conf.get("WEBSOCKET_BACKEND")
    return PrivateDirectory(url if url.startswith("local:") else "local://", namespace()).make()


def doubts() -> Iterator[tuple[str, str]]:
    """Yield what may keep processes of this project from hearing each other, and the remedy."""
    url = urlsplit(conf.get("WEBSOCKET_BACKEND"))
    if url.scheme != "local":
        return
    folder = _folder()
    is_named = conf.get("WEBSOCKET_NAMESPACE") or "namespace" in parse_qs(url.query)
    if folder and not is_named and (reason := _link_to(folder) or _release_in(folder)):
        yield (
            f"Processes of a project find each other by BASE_DIR, which is {folder}: {reason}, so "
            f"processes of this release and of the next would not hear each other.",
            'Set WEBSOCKET_NAMESPACE = "mysite".',
        )
    if not url.path.strip("/") and has_private_tmp():
        yield (
            f"local:// uses {tempfile.gettempdir()}, of which this service has its own "
            f"(PrivateTmp): it cannot reach processes outside the service, such as commands.",
            'Set a directory that all processes share: WEBSOCKET_BACKEND = "local:///run/mysite".',
        )


def _folder() -> str:
    """Return the folder of the project; ``""`` if processes may run on other machines."""
    is_local = conf.get("WEBSOCKET_BACKEND").startswith("local:")
    return str(getattr(settings, "BASE_DIR", "")) if is_local else ""


def _link_to(folder: str) -> str | None:
    """Return the symbolic link that leads to the project, in words, if that is known."""
    module = sys.modules.get(getattr(settings, "SETTINGS_MODULE", None) or "")
    for path in (os.environ.get("PWD"), getattr(module, "__file__", None)):
        if not path:
            continue
        real = os.path.realpath(path)
        if real != path and (_is_within(real, folder) or _is_within(folder, real)):
            return f"{path} is a symbolic link into it"
    return None


def _is_within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _release_in(folder: str) -> str | None:
    """Return the part of a path that looks like the name of a release, in words."""
    holder = ""
    for part in folder.split("/"):
        if holder in _HOLDERS or _RELEASE.fullmatch(part):
            return f'"{part}" looks like the name of one release'
        holder = part
    return None


def has_private_tmp() -> bool:
    """Return whether systemd gave this process a temporary directory of its own."""
    try:
        with open("/proc/self/mountinfo") as mounts:
            # ID, parent, device, root within the file system, mount point, ...
            fields = [line.split() for line in mounts]
    except OSError:
        return False  # not Linux
    directory = tempfile.gettempdir()
    return any("/systemd-private-" in each[3] and each[4] == directory for each in fields)
