"use strict";

/*
 * A WebSocket that comes back: after a quarter of a second or so, then ever more slowly, never all
 * clients at once. Shows its state in #state and calls `received` with each message.
 */
function connect(url, received) {
  const state = document.getElementById("state");
  let socket = null;
  let failures = 0;

  function show(name, text) {
    state.dataset.state = name;
    state.textContent = text;
  }

  function open() {
    show("connecting", "connecting");
    socket = new WebSocket(url);
    socket.onopen = () => {
      failures = 0;
      show("open", "connected");
    };
    socket.onmessage = (event) => received(event.data);
    socket.onclose = (event) => {
      const wait = Math.min(30, 0.25 * 1.5 ** failures) * (0.5 + Math.random());
      failures += 1;
      show("closed", event.code === 1012 ? "server restarts" : "reconnecting");
      state.title = `closed with ${event.code} ${event.reason}`.trim();
      setTimeout(open, wait * 1000);
    };
  }

  open();
  return {
    send(text) {
      if (socket.readyState !== WebSocket.OPEN) return false;
      socket.send(text);
      return true;
    },
  };
}

/* Add a line to the log and keep the newest in sight. */
function addLine(line) {
  const log = document.getElementById("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(line);
  while (log.children.length > 500) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

/* Make an element with a class and a text; text is never taken for HTML. */
function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
