import { addLine, clock, element, showState } from "./page.js";

const form = document.getElementById("say");
const fields = form.elements;
const here = document.getElementById("here");

const room = wsmux.connect(form.dataset.url, { at: form.dataset.at });
showState(room);

room.on("said", ({ user, colour, text, sent }) => {
  const line = element("li", "said");
  const name = element("strong", "user", user);
  name.style.color = colour;
  line.style.setProperty("--accent", colour);
  line.append(name, element("span", "text", text), clock(sent && new Date(sent)));
  addLine(line);
});
room.on("gap", () => showProblem("This window was away for too long, and has missed lines."));

function showProblem(text) {
  const line = element("li", "problem");
  line.append(element("span", "text", text));
  addLine(line);
}

/* A line that is sent while the window is offline waits until it is connected again. */
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const line = { user: fields.user.value, colour: fields.colour.value, text: fields.text.value };
  fields.text.value = "";
  fields.text.focus();
  try {
    await room.request("say", line, { queue: true });
  } catch (error) {
    showProblem(error.message);
  }
});

/* Who is here? The server tells it to windows that have introduced themselves. */
function introduce() {
  room.send({ type: "name", name: fields.user.value });
}

if (here) {
  room.on("open", introduce);
  room.on("presence", ({ present }) => {
    const names = Object.values(present).map(({ name }) => name);
    here.replaceChildren(...names.sort().map((name) => element("li", "name", name)));
  });
  fields.user.addEventListener("change", introduce);
}

/* The browser remembers name and colour; a newcomer gets a random colour. */
for (const name of ["user", "colour"]) {
  const kept = localStorage.getItem(name);
  if (kept) fields[name].value = kept;
  fields[name].addEventListener("change", () => localStorage.setItem(name, fields[name].value));
}
if (!localStorage.getItem("colour")) {
  const colours = ["#0c7c59", "#b3541e", "#7b3fa0", "#1c6dd0", "#b02a5b", "#8a6d00"];
  fields.colour.value = colours[Math.floor(Math.random() * colours.length)];
}
