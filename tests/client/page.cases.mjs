// Cases of test_page.py: a page with a socket of its own.

import assert from "node:assert/strict";

/** Open a tab, or use one, and connect; the page keeps what it is told. */
async function open(tools, group, options = {}, page = undefined) {
  page ??= await tools.tab("/");
  await page.evaluate(
    async (path, options) => {
      const { connect } = await import("/wsmux/client.js");
      Object.assign(window, { got: [], gaps: [], states: [] });
      window.room = connect(path, options);
      room.on("message", (text) => got.push(text));
      room.on("gap", (groups) => gaps.push(groups));
      room.on("state", (state, detail) => states.push([state, detail]));
    },
    `/kept/member/${group}/`,
    options,
  );
  await isOpen(tools, page);
  return page;
}

const isOpen = (tools, page) => tools.shows(page, 'room.state === "open"');

/** Send texts to a group, not over the line. */
async function say(tools, group, ...texts) {
  const body = JSON.stringify(texts.map((text) => ({ group, text })));
  await fetch(`${tools.direct}/kept/send/`, { method: "POST", body });
}

/** Wait until the page has these messages, and nothing else. */
async function has(tools, page, ...texts) {
  await tools.shows(page, `got.length >= ${texts.length}`);
  assert.deepEqual(await page.evaluate("[got, gaps]"), [texts, []]);
}

const untilClosed = (tools) => tools.until("no open socket", async () => !(await tools.proxy.state()).open);

/** Leave the page, and come back to it. */
export async function kept(tools, { group }) {
  const { proxy, origin } = tools;
  const page = await open(tools, group);
  await say(tools, group, "1");
  await has(tools, page, "1");
  const { handshakes } = await proxy.state();
  await page.goto(`${origin}/?other`);
  await untilClosed(tools);
  await say(tools, group, "2", "3");
  await page.evaluate("void setTimeout(() => history.back())");
  if (tools.browserName === "firefox") {
    // Firefox decides before "pagehide", so it keeps no page with an open socket.
    await tools.shows(page, '!location.search && typeof room === "undefined"');
    return;
  }
  // Only a page that the browser has kept still has it.
  await tools.shows(page, "Boolean(room)");
  await isOpen(tools, page);
  await has(tools, page, "1", "2", "3");
  assert.deepEqual(await page.evaluate('states.map(([state]) => state)'), ["open", "waiting", "connecting", "open"]);
  assert.equal((await proxy.state()).handshakes, handshakes + 1);
  // After close(), no event of the page opens it again.
  await page.evaluate("room.close()");
  await untilClosed(tools);
  await page.evaluate('for (const name of ["pagehide", "pageshow", "online"]) dispatchEvent(new Event(name))');
  assert.equal(await page.evaluate("room.state"), "closed");
  assert.equal((await proxy.state()).handshakes, handshakes + 1);
}

/** Follow a link to a page that continues; copy the tab. */
export async function persists(tools, { group }) {
  const { origin } = tools;
  const page = await open(tools, group, { persist: true });
  await say(tools, group, "1");
  await has(tools, page, "1");
  const id = await page.evaluate("room.id");
  await page.goto(`${origin}/?other`);
  await untilClosed(tools);
  await say(tools, group, "2");
  await open(tools, group, { persist: true }, page);
  await has(tools, page, "2");
  assert.equal(await page.evaluate("room.id"), id);
  await page.reload();
  const stored = await page.evaluate("JSON.stringify(sessionStorage)");
  await open(tools, group, { persist: true }, page);
  // What "Duplicate tab" does.
  const copy = await tools.tab("/");
  await copy.evaluate((text) => Object.assign(sessionStorage, JSON.parse(text)), stored);
  await open(tools, group, { persist: true }, copy);
  await tools.shows(page, "states.some(([, {code}]) => code === 4900)");
  await isOpen(tools, page);
  await isOpen(tools, copy);
  await say(tools, group, "3");
  await has(tools, page, "3");
  await has(tools, copy, "3");
  assert.equal(await copy.evaluate("room.id"), id);
  assert.notEqual(await page.evaluate("room.id"), id);
}

/** Events of the page end the wait. */
export async function wakes(tools, { group }) {
  const { proxy } = tools;
  const page = await tools.tab("/");
  // Waits are as long as they may be, and a wait above a second never ends.
  await page.evaluate(() => {
    const { setTimeout } = window;
    Math.random = () => 0.99;
    window.setTimeout = (callback, milliseconds) => (milliseconds > 1000 ? 0 : setTimeout(callback, milliseconds));
  });
  await open(tools, group, {}, page);
  const events = ['dispatchEvent(new Event("online"))', 'document.dispatchEvent(new Event("visibilitychange"))'];
  for (const event of [...events, 'dispatchEvent(new Event("pageshow"))']) {
    await proxy.refuse();
    await proxy.cut();
    await tools.shows(page, 'states.at(-1)[0] === "waiting" && states.at(-1)[1].after > 1');
    const { handshakes } = await proxy.state();
    await proxy.resume();
    await page.evaluate(`for (let count = 0; count < 5; count++) ${event}`);
    await isOpen(tools, page);
    assert.equal((await proxy.state()).handshakes, handshakes + 1, event);
  }
}

/** Lose the network. */
export async function offline(tools, { group }) {
  const { proxy } = tools;
  const page = await open(tools, group);
  await proxy.refuse();
  await page.setOfflineMode(true);
  await proxy.cut();
  await tools.shows(page, 'states.some(([state]) => state === "offline")');
  await say(tools, group, "1");
  await proxy.resume();
  await page.setOfflineMode(false);
  await has(tools, page, "1");
}

/** The user sets the clock: forward and back. */
export async function clock(tools, { group }) {
  const page = await open(tools, group);
  for (const [hours, text] of [[5, "1"], [-5, "2"], [0, "3"]]) {
    await page.evaluate((hours) => {
      const { now } = Object.getPrototypeOf(new Date()).constructor;
      window.realNow ??= now;
      Date.now = () => window.realNow() + hours * 3_600_000;
      dispatchEvent(new Event("online"));
    }, hours);
    await say(tools, group, text);
    await tools.shows(page, `got.includes("${text}")`);
  }
  await isOpen(tools, page);
  await has(tools, page, "1", "2", "3");
}

/** A server that is silent, while the tab is in the background. */
export async function hidden(tools, { group }) {
  const { proxy } = tools;
  const page = await open(tools, group);
  const other = await tools.tab("/");
  await other.bringToFront();
  await proxy.freeze();
  await tools.shows(page, 'states.some(([, {reason}]) => reason === "silence")');
  await say(tools, group, "1");
  await proxy.resume();
  await has(tools, page, "1");
}

/** Draw who is present, and lose the connection. */
export async function present(tools, { group }) {
  const { proxy } = tools;
  const page = await tools.tab("/");
  await page.evaluate(async (group) => {
    const { connect } = await import("/wsmux/client.js");
    document.body.innerHTML = "<ul></ul><p></p>";
    const [list, notes] = document.body.children;
    window.room = connect(`/asked/bare/?${group}`);
    room.on("presence", ({ present, joined, left }) => {
      list.replaceChildren(
        ...Object.values(present).map(({ name }) => {
          const item = document.createElement("li");
          item.textContent = name;
          return item;
        }),
      );
      for (const { name } of Object.values(joined)) notes.append(`${name} has joined. `);
      for (const { name } of Object.values(left)) notes.append(`${name} has left. `);
    });
  }, group);
  const shows = async (names, notes) => {
    await tools.shows(page, `document.querySelector("ul").innerText === ${JSON.stringify(names.join("\n"))}`);
    assert.equal(await page.evaluate('document.querySelector("p").innerText'), notes);
  };
  const tell = (presence) => page.evaluate((frame) => room.send(frame), { in: "g", presence });
  const [one, two, three] = ["Ann", "<b>Bob</b>", "Cid"].map((name) => ({ name }));
  await isOpen(tools, page);
  await tell({ all: { one, two } });
  await shows(["Ann", "<b>Bob</b>"], "");
  await proxy.cut();
  await tools.shows(page, 'room.state !== "open"');
  await shows(["Ann", "<b>Bob</b>"], "");
  await page.evaluate('dispatchEvent(new Event("online"))');
  await isOpen(tools, page);
  await tell({ all: { one, three } });
  await shows(["Ann", "Cid"], "Cid has joined. <b>Bob</b> has left.");
}

/** A JSON Web Token ends, twice, while messages flow. */
export async function expires(tools, { group }) {
  const { proxy } = tools;
  const page = await tools.tab("/");
  const { handshakes } = await proxy.state();
  await page.evaluate(async (path) => {
    const { connect } = await import("/wsmux/client.js");
    Object.assign(window, { got: [], gaps: [], states: [], calls: [] });
    const seconds = [2, 2, 3600];
    const auth = async (refused) => {
      calls.push(refused);
      return (await fetch(`/asked/token/?seconds=${seconds[calls.length - 1]}`)).text();
    };
    window.room = connect(path, { auth });
    room.on("message", (text) => got.push(text));
    room.on("gap", (groups) => gaps.push(groups));
    room.on("state", (state, { code }) => states.push([state, code]));
  }, `/asked/expiring/${group}/`);
  await isOpen(tools, page);
  const texts = [];
  let isOver = false;
  const ends = tools.shows(page, "calls.length === 3 && room.state === 'open'").finally(() => (isOver = true));
  while (!isOver) {
    texts.push(String(texts.length + 1));
    await say(tools, group, texts.at(-1));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await ends;
  await say(tools, group, "last");
  await has(tools, page, ...texts, "last");
  assert.deepEqual(await page.evaluate("calls"), [false, true, true]);
  const round = [["connecting", null], ["open", null]];
  assert.deepEqual(await page.evaluate("states.map(([state, code]) => [state, code ?? null])"), [
    ["open", null],
    ...[1, 2].flatMap(() => [["waiting", 4401], ...round]),
  ]);
  assert.equal((await proxy.state()).handshakes, handshakes + 3);
}
