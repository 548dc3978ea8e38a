"use strict";

const form = document.getElementById("notify");
const text = form.elements.text;

connect(form, (data) => show("came", data));

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
  const { windows } = await response.json();
  show("went", `${form.elements.to.value}: ${text.value} (open windows: ${windows})`);
  text.value = "";
  text.focus();
});
