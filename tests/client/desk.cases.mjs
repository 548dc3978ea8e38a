// Cases of tests/manual/test_support_desk.py: the support desk of the manual.

import assert from "node:assert/strict";

/** Sign in, open a ticket's page, and say something, also without a connection. */
export async function talk(tools, { user, path, heard }) {
  const page = await tools.tab(`/accounts/login/?next=${path}`);
  const shows = (id, text) =>
    tools.shows(page, `document.getElementById("${id}").textContent.includes(${JSON.stringify(text)})`);
  const say = async (text) => {
    await page.type("[name=text]", text);
    await page.keyboard.press("Enter");
  };
  await page.type("[name=username]", user);
  await page.type("[name=password]", user);
  await page.keyboard.press("Enter");
  await shows("state", "connected");
  await shows("lines", heard);
  await shows("agents", user);
  await say("with a connection");
  await shows("lines", "with a connection");
  await tools.proxy.refuse();
  await tools.proxy.cut();
  await shows("state", "waiting");
  await say("without a connection");
  await tools.proxy.resume();
  await shows("lines", "without a connection");
  // Firefox writes about each connection that is lost or refused.
  assert.deepEqual(tools.lines.filter((line) => !/connection to ws:/.test(line)), []);
}
