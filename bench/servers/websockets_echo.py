"""The asyncio server of ``websockets``, on uvloop: ``python websockets_echo.py PORT``."""

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

members: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    """Serve echo, a room and its speaker."""
    assert websocket.request is not None
    if websocket.request.path == "/echo/":
        async for message in websocket:
            await websocket.send(message)
    elif websocket.request.path == "/speaker/":
        async for message in websocket:
            broadcast(members, message)
    else:
        members.add(websocket)
        await websocket.wait_closed()
        members.discard(websocket)


async def main() -> None:
    """Serve until the process is stopped."""
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), backlog=2048) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
