"""Runs one harness under atheris: python -m tests.fuzzing.drive HARNESS [options of libFuzzer]."""

from __future__ import annotations

import sys
from importlib import import_module

import atheris

__all__ = ["main"]

#: Packages whose branches tell atheris that an input is interesting.
_INSTRUMENTED = ["django_wsmux", "websockets"]


def main(name: str, *options: str) -> None:
    """Fuzz until an option stops it or there is a finding; does not return."""
    with atheris.instrument_imports(include=_INSTRUMENTED):
        harness = import_module(f"tests.fuzzing.fuzz_{name}")
    atheris.Setup([name, *options], harness.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
