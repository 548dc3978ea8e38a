"""gevent-websocket's own server, without gunicorn: it sends the 101 before any application runs."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from geventwebsocket.server import WebSocketServer  # noqa: E402

from tests.project.wsgi import application  # noqa: E402

server = WebSocketServer(("127.0.0.1", 0), application)
server.start()
print(f"Listening at: http://127.0.0.1:{server.server_port} ", file=sys.stderr, flush=True)
server.serve_forever()
