// uWebSockets.js, used as in its README: node uws_echo.js PORT
const { createRequire } = require("module");

// Its index falls back to a server in JavaScript if there is no binary for this version of Node.
const { platform, arch, versions } = process;
const binary = `@trufflesuite/uws-js-unofficial/binaries/uws_${platform}_${arch}_${versions.modules}.node`;
const uWS = createRequire(process.cwd() + "/")(binary);

const app = uWS.App();
// A socket that is behind by more than maxBackpressure loses messages: the default is 64 KiB.
const options = { maxPayloadLength: 2 ** 30, maxBackpressure: 2 ** 30, idleTimeout: 0 };

app.ws("/echo/", {
  ...options,
  message: (socket, data, isBinary) => socket.send(data, isBinary),
});
app.ws("/room/", { ...options, open: (socket) => socket.subscribe("room") });
app.ws("/speaker/", {
  ...options,
  message: (socket, data, isBinary) => app.publish("room", data, isBinary),
});
app.listen("127.0.0.1", Number(process.argv[2]), (listener) => {
  if (!listener) process.exit(1);
});
