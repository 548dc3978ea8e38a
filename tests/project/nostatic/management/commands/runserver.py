"""The next app's runserver, which leaves static files alone unless told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.core.management import load_command_class
from django.core.management.base import CommandParser

if TYPE_CHECKING:
    from django.core.management.commands.runserver import Command as NextCommand
else:
    _names = [config.name for config in apps.get_app_configs()]
    _next = _names[_names.index("tests.project.nostatic") + 1]
    NextCommand = type(load_command_class(_next, "runserver"))


class Command(NextCommand):
    """Serve no static files by default."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Change the default."""
        super().add_arguments(parser)
        parser.set_defaults(use_static_handler=False)
