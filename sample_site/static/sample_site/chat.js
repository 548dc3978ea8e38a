"use strict";

const form = document.getElementById("say");
const fields = form.elements;
const here = document.getElementById("here");

const connection = connect(form.dataset.url, (data) => {
  const message = JSON.parse(data);
  if (message.here) showWhoIsHere(message.here);
  else if (message.changed) ask();
  else showLine(message);
}, introduce);

function showLine(message) {
  const line = element("li", message.errors ? "problem" : "said");
  if (message.errors) {
    const texts = Object.values(message.errors).flat().map((error) => error.message);
    line.append(element("span", "text", texts.join(" ")));
  } else {
    const user = element("strong", "user", message.user);
    user.style.color = message.colour;
    line.style.setProperty("--accent", message.colour);
    line.append(user, element("span", "text", message.text), clock());
  }
  addLine(line);
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
