/* What the pages share: the state of the connection, and the log. */

/* Show the state of a room in the header. */
export function showState(room) {
  const show = (state, text) => {
    const output = document.getElementById("state");
    output.dataset.state = state;
    output.textContent = text;
  };
  const tell = (state, { code } = {}) => {
    if (state === "open") show("open", "connected");
    else if (state === "connecting") show("connecting", "connecting");
    else if (state === "offline") show("closed", "offline");
    else if (state === "waiting") show("closed", code === 1012 ? "server restarting" : "reconnecting");
  };
  tell(room.state);
  room.on("state", tell);
  room.on("close", ({ code, reason }) => {
    show("closed", `${code === 4401 ? "signed out" : reason} (${code})`);
  });
  /* Turbo has replaced the element. */
  document.addEventListener("turbo:load", () => tell(room.state));
}

/* Add a line to the log, and keep the end in view. */
export function addLine(line) {
  const log = document.getElementById("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(line);
  while (log.children.length > 500) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

/* Create an element with a time. */
export function clock(moment = new Date()) {
  const time = element("time", "when", moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = moment.toISOString();
  return time;
}

/* Create an element with a class and a text, which is never parsed as HTML. */
export function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
