"""flask-sock, used as in its README."""

from typing import Any

from flask import Flask
from flask_sock import Sock
from simple_websocket import ConnectionClosed

__all__ = ["application"]

application = Flask(__name__)
sock = Sock(application)
members: set[Any] = set()


@sock.route("/echo/")
def echo(websocket: Any) -> None:
    """Send back every message."""
    while True:
        websocket.send(websocket.receive())


@sock.route("/room/")
def room(websocket: Any) -> None:
    """Receive the messages of the room."""
    members.add(websocket)
    try:
        while True:
            websocket.receive()
    except ConnectionClosed:
        members.discard(websocket)
        raise


@sock.route("/speaker/")
def speaker(websocket: Any) -> None:
    """Send each message to the room."""
    while True:
        message = websocket.receive()
        for member in list(members):
            member.send(message)
