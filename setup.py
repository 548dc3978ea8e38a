import sys

from setuptools import Extension, setup

# All else is in setup.cfg. The extension makes the package faster and nothing else: it is left out
# where no compiler is, and on Windows, whose sockets are others.
speedups = Extension(
    "django_wsmux.protocol._speedups",
    ["django_wsmux/protocol/_speedups.c"],
    optional=True,
)

setup(ext_modules=[] if sys.platform == "win32" else [speedups])
