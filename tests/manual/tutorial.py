"""Builds the projects of ``docs/tutorial.rst`` and ``docs/tutorial2.rst``."""

from __future__ import annotations

from pathlib import Path

from tests.manual.walkthrough import INSTALLATION, Project, page

__all__ = ["build", "the_command"]

#: What serves, tests or talks to a server that runs: it is not run with the other commands.
LATER = ("runserver", "test", "gunicorn", "redis-server", "nginx")

#: These need a person, or an index of packages.
BY_HAND = ("python manage.py createsuperuser", 'pip install "django-wsmux[redis]"')


def the_command(name: str, word: str) -> str:
    """Return the only command of a page with this word."""
    (command,) = (each for block in page(name) for each in block.commands if word in each.split())
    return command


def build(directory: Path, *names: str) -> Project:
    """Return the project at the end of the last of these pages, in an empty directory.

    Commands that serve or test, and sessions of the shell, have not run.
    """
    project = Project(directory)
    for block in (block for name in names for block in page(name)):
        if block.file:
            project.write(block)
        for command in block.commands:
            words = command.split()
            is_later = any(word in LATER for word in words) or words[-1] == "shell"
            if command not in INSTALLATION and command not in BY_HAND and not is_later:
                project.run(command)
    return project
