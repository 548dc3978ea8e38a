// Cases of test_recipes.py: components of the manual's recipes, in a page.

import assert from "node:assert/strict";

/** Run a bundle; follow messages, a lost connection, another URL, and the end. */
export async function component(tools, { script, group }) {
  const { proxy } = tools;
  const page = await tools.tab("/");
  await page.evaluate(`document.body.innerHTML = '<div id="app"></div>'; window.group = ${JSON.stringify(group)}`);
  await page.addScriptTag({ content: script });
  const shows = (text) => tools.shows(page, `document.querySelector("#app").textContent === ${JSON.stringify(text)}`);
  const say = (name, word) => fetch(`${tools.direct}/tell/?group=${group}${name}&say=${word}`);
  await shows("open a:");
  await say("a", "one");
  await shows("open a: one");
  await proxy.cut();
  await say("a", "two");
  await shows("open a: one two");
  await page.evaluate('show("b")');
  await shows("open b:");
  await say("a", "lost");
  await say("b", "three");
  await shows("open b: three");
  assert.equal((await proxy.state()).open, 1);
  await page.evaluate("leave()");
  await shows("");
  await tools.until("no open socket", async () => !(await proxy.state()).open);
  const advertisements = /React DevTools|development build/;
  assert.deepEqual(tools.lines.filter((line) => !advertisements.test(line)), []);
}
