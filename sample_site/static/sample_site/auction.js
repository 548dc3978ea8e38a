/* Count down to the end of each auction. The clock is read each time, so a tab that was hidden is right at once. */

function left(milliseconds) {
  const seconds = Math.ceil(milliseconds / 1000);
  if (seconds <= 0) return "has ended";
  return seconds < 60 ? `${seconds} s left` : `${Math.floor(seconds / 60)} min ${seconds % 60} s left`;
}

function tick() {
  for (const time of document.querySelectorAll("time.ends")) {
    const rest = new Date(time.dateTime) - Date.now();
    if (time.textContent !== left(rest)) time.textContent = left(rest);
    time.toggleAttribute("data-ended", rest <= 0);
  }
}

tick();
setInterval(tick, 1000);
/* A new bid brings a new element. */
new MutationObserver(tick).observe(document.querySelector("main"), { childList: true, subtree: true });
