"""Runs cases with kosoku: ``python -m tests.compliance.runner URL CASE...``.

It runs in its own process and prints the verdicts as JSON, because kosoku puts stubs of Python 2's
libraries, including ``pkg_resources``, in front of all others on ``sys.path``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import kosoku


def main(url: str, *cases: str) -> None:
    """Run the cases with these ids or patterns, one after another."""
    try:
        results = asyncio.run(kosoku.run_fuzzingclient(url, list(cases)))
    except kosoku.FailureError as error:
        results = error.results
    verdicts = [
        (
            result.case_id,
            result.behavior.value,
            result.behavior_close.value,
            f"{result.result} {result.result_close}",
        )
        for result in results
    ]
    json.dump(verdicts, sys.stdout)
    sys.stdout.flush()
    # A thread of kosoku's extension that calls Python while it shuts down aborts the process.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
