"use strict";

const form = document.getElementById("say");
const fields = form.elements;
const here = document.getElementById("here");
const shown = new Set();

const connection = connect(form, (data) => {
  const message = JSON.parse(data);
  if (message.here) showWhoIsHere(message.here);
  else if (message.changed) ask();
  else if (message.missed) moveOn();
  else if (!shown.has(message.id)) showLine(message);
}, introduce);

function showProblem(text) {
  const line = element("li", "problem");
  line.append(element("span", "text", text));
  addLine(line);
}

function showLine(message) {
  if (message.errors) {
    const texts = Object.values(message.errors).flat().map((error) => error.message);
    showProblem(texts.join(" "));
  } else {
    if (message.id) shown.add(message.id);
    const line = element("li", "said");
    const user = element("strong", "user", message.user);
    user.style.color = message.colour;
    line.style.setProperty("--accent", message.colour);
    line.append(user, element("span", "text", message.text), clock(message.sent && new Date(message.sent)));
    addLine(line);
  }
}

/* The window was away for too long. A new copy of the page has the position from which to go on. */
async function moveOn() {
  showProblem("This window was away for too long, and has missed lines.");
  const response = await fetch(location.href);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  form.dataset.url = page.getElementById("say").dataset.url;
}

/* Ask who is here when the server says that it has changed, and every five seconds, because a worker that
   is killed cannot say so. */
function introduce() {
  if (here) connection.send(JSON.stringify({ name: fields.user.value }));
}

function ask() {
  connection.send(JSON.stringify({ ask: "here" }));
}

if (here) setInterval(ask, 5000);

function showWhoIsHere(names) {
  const windows = new Map();
  for (const name of names) windows.set(name, (windows.get(name) ?? 0) + 1);
  here.replaceChildren(...[...windows].map(([name, count]) => element("li", "name", count > 1 ? `${name} (${count})` : name)));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const line = { user: fields.user.value, colour: fields.colour.value, text: fields.text.value };
  if (connection.send(JSON.stringify(line))) fields.text.value = "";
  fields.text.focus();
});

/* The browser remembers name and colour; a newcomer gets a random colour. */
for (const name of ["user", "colour"]) {
  const kept = localStorage.getItem(name);
  if (kept) fields[name].value = kept;
  fields[name].addEventListener("change", () => localStorage.setItem(name, fields[name].value));
}
fields.user.addEventListener("change", introduce);
if (!localStorage.getItem("colour")) {
  const colours = ["#0c7c59", "#b3541e", "#7b3fa0", "#1c6dd0", "#b02a5b", "#8a6d00"];
  fields.colour.value = colours[Math.floor(Math.random() * colours.length)];
}
