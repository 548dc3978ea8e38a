"""WebSockets on a threaded server of ``wsgiref``, such as Django's own.

Example::

    class Server(WebSocketServerMixin, ThreadedWSGIServer):
        pass
"""

from .server.wsgiref import WebSocketServerMixin

__all__ = ["WebSocketServerMixin"]
