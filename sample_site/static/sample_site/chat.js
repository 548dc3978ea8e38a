"use strict";

const form = document.getElementById("say");
const fields = form.elements;

const connection = connect(form.dataset.url, (data) => {
  const message = JSON.parse(data);
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
});

function clock() {
  const now = new Date();
  const time = element("time", "when", now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = now.toISOString();
  return time;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const line = { user: fields.user.value, colour: fields.colour.value, text: fields.text.value };
  if (connection.send(JSON.stringify(line))) fields.text.value = "";
  fields.text.focus();
});

/* Name and colour stay with the browser; a newcomer gets a colour of their own. */
for (const name of ["user", "colour"]) {
  const kept = localStorage.getItem(name);
  if (kept) fields[name].value = kept;
  fields[name].addEventListener("change", () => localStorage.setItem(name, fields[name].value));
}
if (!localStorage.getItem("colour")) {
  const colours = ["#0c7c59", "#b3541e", "#7b3fa0", "#1c6dd0", "#b02a5b", "#8a6d00"];
  fields.colour.value = colours[Math.floor(Math.random() * colours.length)];
}
