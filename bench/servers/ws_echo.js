// Node's ws, used as in its README: node ws_echo.js PORT
const { createRequire } = require("module");
const { WebSocket, WebSocketServer } = createRequire(process.cwd() + "/")("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 2048 });
const members = new Set();

server.on("connection", (socket, request) => {
  socket.on("error", console.error);
  if (request.url === "/echo/") {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  } else if (request.url === "/speaker/") {
    socket.on("message", (data, isBinary) => {
      for (const member of members) {
        if (member.readyState === WebSocket.OPEN) member.send(data, { binary: isBinary });
      }
    });
  } else {
    members.add(socket);
    socket.on("close", () => members.delete(socket));
  }
});
