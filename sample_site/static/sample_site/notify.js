import { addLine, clock, element, showState } from "./page.js";

const form = document.getElementById("notify");
const text = form.elements.text;

/* All windows of this browser share one socket. */
const room = wsmux.connect(form.dataset.url, { at: form.dataset.at, shared: true });
showState(room);
room.on("message", (data) => show("came", data));

function show(className, data) {
  const line = element("li", className);
  line.append(element("span", "text", data), clock());
  addLine(line);
}

/* Submit the form as usual, but stay on the page. */
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
  if (!response.ok || response.redirected) {
    show("problem", "The message could not be sent. Are you still signed in?");
    return;
  }
  const { browsers } = await response.json();
  show("went", `${form.elements.to.value}: ${text.value} (open browsers: ${browsers})`);
  text.value = "";
  text.focus();
});
