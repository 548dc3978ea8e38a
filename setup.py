import gzip
import os
import re
import sys
import tarfile
import time
from email.parser import HeaderParser
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

# All else is in setup.cfg. The extensions make the package faster and nothing else: they are left
# out where no compiler is, and on Windows, whose sockets are others.
headers = [*glob("django_wsmux/connection/reactor/*.h"), *glob("django_wsmux/protocol/*.h")]
speedups = Extension(
    "django_wsmux.protocol._speedups",
    ["django_wsmux/protocol/_speedups.c"],
    depends=headers,
    optional=True,
)
reactor = Extension(
    "django_wsmux.connection._reactor",
    sorted(glob("django_wsmux/connection/reactor/*.c")),
    depends=headers,
    # Calls from one of its files to another need no look-up at run time.
    extra_compile_args=["-fvisibility=hidden"],
    optional=True,
)


def directory_of_greenlet() -> str:
    """Return the directory in which ``greenlet/greenlet.h`` is: not among Python's own headers."""
    spec = find_spec("greenlet")
    if spec is None or spec.origin is None:
        raise CompileError("greenlet is not installed where the package is built")
    package = os.path.dirname(spec.origin)
    if not os.path.exists(os.path.join(package, "greenlet.h")):
        raise CompileError(f"{package} has no greenlet.h")
    return os.path.dirname(package)


class Build(build_ext):
    """Says what is missing without an extension; ``pip -v`` shows it."""

    def build_extension(self, ext: Extension) -> None:
        """Compile an extension."""
        try:
            if ext is reactor:
                ext.include_dirs.append(directory_of_greenlet())
            super().build_extension(ext)
        except Exception:
            self.warn(
                f"{ext.name} IS NOT COMPILED. Python code replaces it, which takes more CPU time. "
                "Install a C compiler and Python's headers, and build again. The reason:"
            )
            raise


class Sdist(sdist):
    """Writes the same bytes wherever it runs, if ``SOURCE_DATE_EPOCH`` is set."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        """Write a tar file that tells nothing about the machine; return its path."""
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = seconds
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        path = f"{base_name}.tar.gz"
        with (
            gzip.GzipFile(path, "wb", mtime=seconds) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=plain)
        return path


def repository() -> str:
    """Return the URL of the repository, or ``""``. A release knows it, and so does its sdist."""
    url = os.environ.get("REPOSITORY_URL", "")
    metadata = Path("PKG-INFO")
    if not url and metadata.exists():
        for line in HeaderParser().parsestr(metadata.read_text("utf-8")).get_all("Project-URL", []):
            label, _, target = line.partition(", ")
            if label == "Source":
                url = target
    return url.rstrip("/")


def files(kind: str) -> str:
    """Return the URL of the files of this version: ``"blob"`` for pages, ``"raw"`` for pictures."""
    (version,) = re.findall(r'__version__ = "(.+)"', Path("django_wsmux/__init__.py").read_text())
    return f"{repository()}/{kind}/{version}"


def description() -> str:
    """Return README for a package index, which has none of the files that README links to.

    Without the URL of the repository, links to files become text, and pictures are left out.
    """
    text = Path("README.rst").read_text("utf-8")
    link, picture = r"`([^`<]+?)(\s+)<(?!\w+:)([^`>]+)>`_", r"^\.\. image:: (?!\w+:)(\S+)$"
    if not repository():
        text = re.sub(picture + r"\n(?: +\S.*\n)*", "", text, flags=re.MULTILINE)
        return re.sub(link, r"\1", text)
    text = re.sub(picture, rf".. image:: {files('raw')}/\1", text, flags=re.MULTILINE)
    return re.sub(link, rf"`\1\2<{files('blob')}/\3>`_", text)


def project_urls() -> dict[str, str]:
    """Return the links that a package index shows beside the description."""
    if not repository():
        return {}
    return {
        "Documentation": f"{files('blob')}/docs/index.rst",
        "Changelog": f"{files('blob')}/CHANGELOG.rst",
        "Issues": f"{repository()}/issues",
        "Source": repository(),
    }


setup(
    cmdclass={"build_ext": Build, "sdist": Sdist},
    ext_modules=[] if sys.platform == "win32" else [speedups, reactor],
    long_description=description(),
    project_urls=project_urls(),
)
