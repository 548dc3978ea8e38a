"""The site whose instructions ``instructions.py`` counts."""

from __future__ import annotations

from django_site import APPS, configure

configure(
    INSTALLED_APPS=["django_wsmux", *APPS],
    WEBSOCKET_URLCONF="instructions_sockets",
    WEBSOCKET_COMPRESSION=True,
    WEBSOCKET_HISTORY={"kept": {"messages": 1000, "seconds": 600}},
    WEBSOCKET_PING_INTERVAL=0,
    # Its thread looks several times within the limit.
    WEBSOCKET_BLOCKED_WARNING=3600,
)

from django_wsmux.connection import fanout  # noqa: E402
from django_wsmux.handlers import databases  # noqa: E402
from django_wsmux.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["application"]

application = get_wsgi_application()

# Handshakes reuse the connection of the one before for some milliseconds. Under valgrind they are
# over sooner or later, depending on the machine.
databases.IDLE = databases.MAX_AGE = 3600.0

# Likewise, a delivery is put off after some milliseconds.
fanout._SLICE = 3600.0
