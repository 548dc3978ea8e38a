"""The directory of one user and one project on one machine, which only that user can enter.

It contains the sockets of ``local://`` and, in a folder of its own, the history of groups.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from typing import Final
from urllib.parse import urlsplit

from ..exceptions import BackendMisconfigured, BackendUnavailable

__all__ = ["PrivateDirectory"]

#: Error numbers when a directory cannot be used until someone changes it.
_FINAL: Final = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR),
        *(errno.ELOOP, errno.ENAMETOOLONG),
    }
)


class PrivateDirectory:
    """A private directory; see the module. It need not exist.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
        namespace: names the project.

    Attributes:
        parent: the directory that contains it.
        key: stands for the project in its name.
    """

    def __init__(self, url: str, namespace: str) -> None:
        parts = urlsplit(url)
        self._name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.parent = parts.path if parts.path.strip("/") else tempfile.gettempdir()
        self.key = hashlib.blake2b(namespace.encode(), digest_size=5).hexdigest()

    @property
    def path(self) -> str:
        """The path, which depends on the present user of the process."""
        return os.path.join(self.parent, f"wsmux-{os.geteuid()}-{self.key}")

    def make(self) -> str:
        """Make the directory if it is missing; return its path.

        Raises:
            BackendMisconfigured: this can never work.
            BackendUnavailable: this does not work now.
        """
        path = self.path
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            self.require_private()
        except OSError as error:
            raise self.unusable(error) from error
        return path

    def require_private(self) -> None:
        """Raise unless only this user can enter the directory.

        Raises:
            BackendMisconfigured: other users can enter it, or it is not a directory.
            OSError: it is missing.
        """
        path = self.path
        status = os.lstat(path)
        if (
            not stat.S_ISDIR(status.st_mode)
            or status.st_uid != os.geteuid()
            or stat.S_IMODE(status.st_mode) & 0o077
        ):
            raise BackendMisconfigured(
                self._name,
                f"{path} is not a directory that only this user can enter",
                "find out who made it and remove it, or use another directory: local:///run/mysite",
            )

    def unusable(self, error: OSError) -> BackendUnavailable:
        """Return the error to raise for an ``OSError``."""
        problem = f"{self.path}: {error.strerror}"
        if error.errno in _FINAL:
            return BackendMisconfigured(
                self._name, problem, f"{self.parent} must exist and be writable by this user"
            )
        return BackendUnavailable(self._name, problem)
