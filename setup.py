import os
import sys
from glob import glob
from importlib.util import find_spec

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
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


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[] if sys.platform == "win32" else [speedups, reactor],
)
