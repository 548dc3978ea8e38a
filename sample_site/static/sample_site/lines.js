import { addLine, element, showState } from "./page.js";

const form = document.getElementById("say");
const field = form.elements.text;
const sentAt = [];

const room = wsmux.connect(form.dataset.url);
showState(room);

room.on("message", (data) => {
  const line = element("li", "came");
  line.append(element("span", "text", data));
  const sent = sentAt.shift();
  if (sent !== undefined) line.append(element("span", "when", `${(performance.now() - sent).toFixed(1)} ms`));
  addLine(line);
});

function say(text) {
  /* Ping leaves some messages unanswered: do not credit their time to a later answer. */
  sentAt.length = form.dataset.url.endsWith("/ping/") ? 0 : sentAt.length;
  sentAt.push(performance.now());
  if (!room.send(text)) {
    sentAt.pop();
    return;
  }
  const line = element("li", "went");
  line.append(element("span", "text", text));
  addLine(line);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  say(field.value);
  field.value = "";
  field.focus();
});

for (const button of form.querySelectorAll("[data-say]")) {
  button.addEventListener("click", () => say(button.dataset.say));
}
