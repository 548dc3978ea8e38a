// Cases of test_swaps.py: what htmx and Turbo do with the markup of django_wsmux.html.

import { createRequire } from "node:module";

const { resolve } = createRequire(new URL("../../client/package.json", import.meta.url));

const LIBRARIES = {
  htmx2: "htmx2/dist/htmx.js",
  htmx4: "htmx.org/dist/htmx.js",
  turbo: "@hotwired/turbo/dist/turbo.es2017-umd.js",
};

/**
 * Give pieces of HTML to a library, each in a page with its own content. Return the new contents, and
 * the expected ones as this browser writes them.
 */
export async function swap(tools, { library, steps }) {
  const page = await tools.tab();
  await page.setContent("<!DOCTYPE html><body><main></main><i></i></body>");
  await page.addScriptTag({ path: resolve(LIBRARIES[library]) });
  const found = [];
  for (const step of steps) {
    found.push(await page.evaluate(apply, library, ...step));
  }
  return found;
}

/** Runs in the page. */
async function apply(library, before, html, after) {
  const main = document.querySelector("main");
  const nowhere = document.querySelector("i");
  main.innerHTML = before;
  if (library === "turbo") {
    Turbo.renderStreamMessage(html);
    while (document.querySelector("turbo-stream")) await new Promise((done) => setTimeout(done, 10));
  } else if (library === "htmx2") {
    htmx.swap(nowhere, html, { swapStyle: "none" });
  } else {
    await htmx.swap({ text: html, swap: "none", target: nowhere, sourceElement: nowhere });
  }
  for (const element of main.querySelectorAll("[class]")) {
    // htmx marks what it has added for a moment.
    element.classList.remove("htmx-added", "htmx-settling", "htmx-swapping");
    if (!element.className) element.removeAttribute("class");
  }
  const content = main.innerHTML;
  main.innerHTML = after;
  return [content, main.innerHTML];
}
