"""HTML over the wire: templates that are rendered once and sent to the members of a group."""

from .broadcasting import broadcast, broadcasts
from .sending import send_stream, send_template
from .streams import StreamView

__all__ = ["StreamView", "broadcast", "broadcasts", "send_stream", "send_template"]
