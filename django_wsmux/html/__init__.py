"""HTML over the wire: templates that are rendered once and sent to the members of a group."""

from .broadcasting import broadcast, broadcasts
from .sending import send_stream, send_template

__all__ = ["broadcast", "broadcasts", "send_stream", "send_template"]
