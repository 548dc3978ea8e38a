"""The echo of picows' README, on uvloop as its examples have it; only the size limit is raised."""

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

__all__ = ["Echo"]


class Echo(WSListener):
    """Sends back whatever comes, straight from the buffer that it was read to."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer one frame; picows answers pings itself."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


async def serve() -> None:
    """Serve on a free port and say which."""

    def listener(_request: WSUpgradeRequest) -> Echo:
        return Echo()

    server = await ws_create_server(listener, "127.0.0.1", 0, max_frame_size=2**30)
    host, port = server.sockets[0].getsockname()
    print(f"Listening at: http://{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
