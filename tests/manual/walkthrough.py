"""Follows a page of the manual word for word: writes its files and runs its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import ROOT, Server

__all__ = ["BLOCK", "INSTALLATION", "Block", "Project", "argv", "page"]

#: A paragraph that introduces a block, and the start of the block.
BLOCK = re.compile(
    r"^(?P<paragraph>(?:\S.*\n)*.*?:)\n\n(?:\.\. code-block:: \S+\n\n)?(?P<text>(?:    .*\n|\n)+)",
    re.MULTILINE,
)

#: The heading of a section.
HEADING = re.compile(r"^(\S.*)\n-{3,}$", re.MULTILINE)

#: The environment of the tests replaces these: they run in a virtual environment, and PYTHONPATH
#: leads to the package of this tree.
INSTALLATION = [
    "python3 -m venv venv",
    ". venv/bin/activate",
    "pip install django-wsmux",
]

#: Programs that a virtual environment has on its PATH.
PROGRAMS = {
    "python": (),
    "django-admin": ("-m", "django"),
    "gunicorn": ("-m", "gunicorn"),
    "celery": ("-m", "celery"),
}


@dataclass(frozen=True)
class Block:
    """A block of a page: a file, the end of a file, or a session in a terminal.

    Attributes:
        paragraph: the paragraph before it.
        text: the code.
        heading: the heading of its section.
    """

    paragraph: str
    text: str
    heading: str = ""

    @property
    def file(self) -> str | None:
        """The name of the file at the end of the paragraph."""
        match = re.search(r"``([\w./]+)``:$", self.paragraph)
        return match and match[1]

    @property
    def commands(self) -> list[str]:
        """The commands of the block."""
        return re.findall(r"^\$ (.+)$", self.text, re.MULTILINE)


def page(name: str) -> list[Block]:
    """Return the blocks of a page.

    Args:
        name: its file in ``docs/``.
    """
    text = (ROOT / "docs" / name).read_text()
    headings = [(match.start(), match[1]) for match in HEADING.finditer(text)]
    return [
        Block(
            match["paragraph"],
            textwrap.dedent(match["text"]).strip() + "\n",
            next((each for at, each in reversed(headings) if at < match.start()), ""),
        )
        for match in BLOCK.finditer(text)
    ]


def argv(command: str) -> tuple[str, ...]:
    """Return the arguments for this Python for a command of the page."""
    program, *arguments = shlex.split(command)
    return (*PROGRAMS[program], *arguments)


class Project:
    """The directory that a reader works in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # manage.py and wsgi.py set the settings by default, but those of the tests would come
        # first.
        self.env = {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "mysite.settings"}

    def write(self, block: Block) -> None:
        """Write a block to the file that its paragraph names."""
        assert block.file is not None
        path = self.directory / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if "Add to the end of" in block.paragraph:
            block = replace(block, text=path.read_text() + block.text)
        path.write_text(block.text)

    def run(self, command: str, typed: str = "") -> str:
        """Run a command; return what it prints."""
        result = subprocess.run(
            [sys.executable, *argv(command)],
            input=typed,
            cwd=self.directory,
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    def serve(self, command: str, *options: str, **env: str) -> Server:
        """Run a server command of the page, at another port."""
        return Server(*argv(command), *options, env={**self.env, **env}, cwd=self.directory)
