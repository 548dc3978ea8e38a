"use strict";

/*
 * A WebSocket that reconnects: after about a quarter of a second, then less and less often, with a random
 * delay so that clients do not all reconnect at once. It does not reconnect after a code from 4000 on, which
 * the server would only send again: 4401 when the user has signed out, 4403 and 4404 for a refused
 * handshake. Shows its state in #state, calls `received` with each message and `opened` on each connection.
 * The URL is in `data-url` of an element, since it changes with the position of the page.
 */
function connect(element, received, opened) {
  const state = document.getElementById("state");
  let socket = null;
  let failures = 0;

  function show(name, text) {
    state.dataset.state = name;
    state.textContent = text;
  }

  function open() {
    show("connecting", "connecting");
    socket = new WebSocket(element.dataset.url);
    socket.onopen = () => {
      failures = 0;
      show("open", "connected");
      if (opened) opened();
    };
    socket.onmessage = (event) => received(event.data);
    socket.onclose = (event) => {
      state.title = `closed with ${event.code} ${event.reason}`.trim();
      if (event.code >= 4000) {
        show("closed", `${event.code === 4401 ? "signed out" : event.reason} (${event.code})`);
        return;
      }
      const wait = Math.min(30, 0.25 * 1.5 ** failures) * (0.5 + Math.random());
      failures += 1;
      show("closed", event.code === 1012 ? "server restarting" : "reconnecting");
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

/* Add a line to the log, and keep the end in view. */
function addLine(line) {
  const log = document.getElementById("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(line);
  while (log.children.length > 500) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

/* Create an element with a time. */
function clock(moment = new Date()) {
  const time = element("time", "when", moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = moment.toISOString();
  return time;
}

/* Create an element with a class and a text, which is never parsed as HTML. */
function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
