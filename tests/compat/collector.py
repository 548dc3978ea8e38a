"""A stand-in for Sentry's servers."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Collector"]


class Collector:
    """A server that accepts the envelopes of Sentry's SDK."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")
                collector.take(body)

            def log_message(self, *args: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.dsn = f"http://key@127.0.0.1:{self.server.server_address[1]}/1"

    def take(self, body: bytes) -> None:
        """Store an envelope: a header, then items with a header and a payload each."""
        _, _, rest = body.partition(b"\n")
        while rest.strip():
            line, _, rest = rest.partition(b"\n")
            header = json.loads(line)
            size = header.get("length", rest.find(b"\n"))
            payload, rest = rest[:size], rest[size + 1 :]
            if header["type"] in ("event", "transaction"):
                self.items.append((header["type"], json.loads(payload)))

    def errors(self) -> list[str]:
        """Return the types of the errors reported so far."""
        return [
            value["type"]
            for kind, item in self.items
            if kind == "event"
            for value in item.get("exception", {}).get("values", [])
        ]

    def statuses(self, path: str) -> list[str | None]:
        """Return the statuses of the transactions of a path."""
        return [
            item["contexts"]["trace"].get("status")
            for kind, item in self.items
            if kind == "transaction" and urlsplit(item["request"]["url"]).path == path
        ]
