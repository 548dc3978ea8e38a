"""``manage.py websocketschema``: the types of messages, for clients.

::

    manage.py websocketschema [--format typescript | jsonschema] [VIEW ...]
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import conf
from ...schema.documents import json_schema, typescript
from ...schema.views import find_views

__all__ = ["Command"]


class Command(BaseCommand):
    """Write the types of the messages of views, for clients."""

    help = (
        "Write the types of the messages that the views of WEBSOCKET_URLCONF declare in forms and "
        "sends, for clients in TypeScript, or as JSON Schema."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the command-line arguments."""
        parser.add_argument("--format", choices=("typescript", "jsonschema"), default="typescript")
        parser.add_argument(
            "views",
            nargs="*",
            metavar="VIEW",
            help="Name of a URL pattern, name or dotted path of a view. All views by default.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the document."""
        views = find_views(conf.get("WEBSOCKET_URLCONF"))
        declared = [view for view in views if view.forms is not None or view.sends is not None]
        wanted: list[str] = options["views"]
        for word in wanted:
            if not any(word in view.words for view in views):
                known = ", ".join(sorted({view.view_class.__name__ for view in declared}))
                raise CommandError(
                    f"no class-based view of WEBSOCKET_URLCONF is called {word!r}; those with "
                    f"types are: {known or 'none'}"
                )
            if not any(word in view.words for view in declared):
                raise CommandError(f"{word} declares neither forms nor sends")
        chosen = [view for view in declared if not wanted or set(wanted) & set(view.words)]
        write = typescript if options["format"] == "typescript" else json_schema
        try:
            self.stdout.write(write(chosen), ending="")
        except TypeError as error:
            raise CommandError(str(error)) from error
