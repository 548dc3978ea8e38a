"""The echo of picows' README, on uvloop as in its examples, with a higher size limit.

``python picows_echo.py PORT``
"""

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

__all__ = ["Echo", "Room", "Speaker"]

members: set[WSTransport] = set()


class Echo(WSListener):
    """Sends back every frame, straight from the read buffer."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send back one frame; picows answers pings itself."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Room(Echo):
    """Receives the messages of the room."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Join the room."""
        members.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Leave the room."""
        members.discard(transport)


class Speaker(Echo):
    """Sends each message to the room."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send a message to all members."""
        if frame.msg_type == WSMsgType.CLOSE:
            super().on_ws_frame(transport, frame)
            return
        payload = frame.get_payload_as_bytes()
        for member in members:
            member.send(frame.msg_type, payload)


PLACES = {b"/echo/": Echo, b"/room/": Room, b"/speaker/": Speaker}


async def serve() -> None:
    """Serve until the process is stopped."""

    def listener(request: WSUpgradeRequest) -> WSListener:
        return PLACES[request.path]()

    server = await ws_create_server(
        listener, "127.0.0.1", int(sys.argv[1]), max_frame_size=2**30, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
