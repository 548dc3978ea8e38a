"""``sample_site/manage.py say hello``: a line of the chat, from a terminal."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from sample_site.sockets import CHAT, said

__all__ = ["Command"]


class Command(BaseCommand):
    """Says something in the chat."""

    help = "Say something in the chat, from a terminal."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the words, and the name."""
        parser.add_argument("words", nargs="+")
        parser.add_argument("--name", default="terminal")

    def handle(self, words: list[str], name: str, **options: Any) -> None:
        """Send the line to all windows, like the socket of a window does."""
        CHAT.send_json(said({"user": name, "colour": "#5b6472", "text": " ".join(words)}))
