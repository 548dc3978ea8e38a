// Cases of test_presence.py: two people in one room, each in another browser.

import assert from "node:assert/strict";

/** The page draws who is present, and keeps the events. */
async function draw(page, { group, name }) {
  await page.evaluate(
    async (group, name) => {
      const { connect } = await import("/wsmux/client.js");
      document.body.innerHTML = "<h1></h1><ul></ul>";
      document.querySelector("h1").textContent = `${name} sees`;
      window.events = [];
      window.room = connect(`/asked/present/${group}/${name}/`);
      room.on("presence", ({ present, joined, left }) => {
        const items = Object.values(present).map(({ name }) => {
          const item = document.createElement("li");
          item.textContent = name;
          return item;
        });
        document.querySelector("ul").replaceChildren(...items);
        events.push({ all: Object.keys(present), joined: { ...joined }, left: { ...left }, at: Date.now() });
      });
    },
    group,
    name,
  );
}

const sees = (tools, page, ...names) =>
  tools.shows(page, `document.querySelector("ul").innerText === ${JSON.stringify(names.join("\n"))}`);

/** Stay until the other one has gone; return what was told. */
export async function stays(tools, options) {
  const page = await tools.tab("/");
  await draw(page, options);
  await sees(tools, page, "Ann");
  await sees(tools, page, "Ann", "Bob");
  if (options.screenshot) await page.screenshot({ path: options.screenshot });
  await sees(tools, page, "Ann");
  // Puppeteer loses objects that are in several events.
  return JSON.parse(await page.evaluate("JSON.stringify(events)"));
}

/** Come, load the page again, and go; return how many seconds the page was away, and when it went. */
export async function visits(tools, options) {
  const page = await tools.tab("/");
  await draw(page, options);
  await sees(tools, page, "Ann", "Bob");
  const began = Date.now();
  await page.reload();
  await draw(page, options);
  await sees(tools, page, "Ann", "Bob");
  const away = (Date.now() - began) / 1000;
  const [{ joined, left }, ...more] = await page.evaluate("events");
  assert.deepEqual([joined, left, more], [{}, {}, []]);
  const at = Date.now();
  await page.close();
  return { away, at };
}
