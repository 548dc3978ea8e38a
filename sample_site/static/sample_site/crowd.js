import { addLine, clock, element, showState } from "./page.js";

const form = document.getElementById("crowd-form");
const { url, at, page } = form.dataset;
const sender = crypto.randomUUID();
const counts = { received: 0, lost: 0, doubled: 0 };
let crowd = { received: 0, lost: 0, doubled: 0 };
let sent = 0;
let last = 0;
let worker;

const room = wsmux.connect(url, { at });
showState(room);

/* Numbers: this page sends them by POST, and receives them over its socket. */
function post(path) {
  const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
  return fetch(page + path, { method: "POST", headers });
}

async function send() {
  try {
    /* The same number again, until the server has it: it sends no number twice. */
    const answer = await post(`${sender}/${sent + 1}/`);
    if (answer.ok) sent += 1;
  } catch {
    /* The worker was killed before it could answer. */
  }
  setTimeout(send, 250);
}

room.on("number", (message) => {
  if (message.sender !== sender) return;
  counts.received += 1;
  if (message.number <= last) counts.doubled += 1;
  else counts.lost += message.number - last - 1;
  last = Math.max(last, message.number);
  show();
});
room.on("gap", () => tell("Numbers are missing: the page was away for too long."));

/* What the crowd reports comes as its presence. */
room.on("presence", ({ present }) => {
  crowd = present.crowd ?? crowd;
  show();
});

function show() {
  for (const [id, number] of Object.entries({
    received: counts.received,
    crowd: crowd.received,
    lost: counts.lost + crowd.lost,
    doubled: counts.doubled + crowd.doubled,
  })) {
    document.getElementById(id).textContent = number.toLocaleString();
  }
}

/* Which worker has the socket? A deploy moves it without a new connection. */
async function locate() {
  try {
    const reply = await room.request("where", {}, { timeout: 5000 });
    if (worker && worker !== reply.worker) tell(`The socket is in worker ${reply.worker} now.`);
    worker = reply.worker;
  } catch {
    /* It is not connected: it asks again when it is. */
  }
}
room.on("open", () => {
  room.send({ type: "watch" });
  locate();
});

let before;
async function measure() {
  const answer = await fetch(`${page}workers/`).catch(() => undefined);
  if (answer?.ok) {
    const { workers } = await answer.json();
    const sum = (name) => workers.reduce((total, each) => total + each[name], 0);
    const now = { at: performance.now(), delivered: sum("delivered") };
    const rate = before ? ((now.delivered - before.delivered) / (now.at - before.at)) * 1000 : 0;
    before = now;
    document.getElementById("open").textContent = sum("sockets").toLocaleString();
    /* A new worker counts from 0. */
    document.getElementById("rate").textContent = Math.max(0, Math.round(rate)).toLocaleString();
    document.getElementById("workers").replaceChildren(...workers.map(describe));
  }
  locate();
  setTimeout(measure, 1000);
}

function describe({ pid, sockets, memory }) {
  const used = memory ? `, ${(memory / 2 ** 20).toFixed(0)} MiB` : "";
  const item = element("li", pid === worker ? "own" : "", `Worker ${pid}: ${sockets.toLocaleString()} sockets${used}`);
  if (pid === worker) item.append(element("strong", "", " this page"));
  return item;
}

function tell(text) {
  const line = element("li", "came");
  line.append(element("span", "text", text), clock());
  addLine(line);
}

room.on("state", (state, { code } = {}) => {
  if (state === "waiting") tell(`The connection was lost (${code}).`);
  if (state === "open" && worker) tell("Connected again, with all numbers that were sent meanwhile.");
});

async function ask(what, path) {
  const answer = await post(path);
  tell(answer.ok ? what : `${what}: not allowed here (${answer.status})`);
}

/* Without an answer: a worker that was killed has none. Errors come as an event. */
function end(how, type) {
  tell(how);
  room.send({ type });
}
room.on("error", (errors) => tell(errors.__all__?.[0].message ?? "An error on the server."));

form.addEventListener("click", ({ target }) => {
  if (target.name === "come") ask("The clients come.", "come/");
  if (target.name === "go") ask("The clients leave.", "go/");
  if (target.name === "deploy") end("New workers start, and take the sockets of the old ones.", "deploy");
  if (target.name === "kill") end(`Worker ${worker} is killed.`, "kill");
});

send();
measure();
