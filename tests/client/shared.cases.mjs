// Cases of test_shared.py: pages that share one socket.

import assert from "node:assert/strict";

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Send numbers to a group, one every few milliseconds. Return a function that ends it and returns the last. */
function speak(origin, group, milliseconds = 40) {
  let isStopped = false;
  const spoken = (async () => {
    let count = 0;
    while (!isStopped) {
      await say(origin, group, String(++count));
      await pause(milliseconds);
    }
    return count;
  })();
  // If the case fails, the server may stop first.
  spoken.catch(() => undefined);
  return () => {
    isStopped = true;
    return spoken;
  };
}

/** Send texts to a group. */
async function say(origin, group, ...texts) {
  const body = JSON.stringify(texts.map((text) => ({ group, text })));
  const response = await fetch(`${origin}/kept/send/`, { method: "POST", body });
  assert.equal((await response.json()).sent.length, texts.length);
}

/** Assert that a page has each number once and in order: rendered, or as a message. Return how many. */
async function assertComplete(page) {
  const { all, gaps } = await page.evaluate(() => ({ all: initial.concat(got), gaps }));
  assert.deepEqual(gaps, [], "the page was told a gap");
  assert.deepEqual(all.map(Number), Array.from(all, (_, index) => index + 1));
  return all.length;
}

/** Wait until a page has this many numbers, each once and in order. */
async function completes(tools, page, count) {
  await tools.shows(page, `initial.length + got.length >= ${count}`);
  assert.equal(await assertComplete(page), count);
}

const isOpen = (tools, page) => tools.shows(page, 'room.state === "open"');

/** Wait until no socket is open; return how many seconds that took. */
async function untilGone(tools) {
  const began = Date.now();
  await tools.until("no open socket", async () => !(await tools.proxy.state()).open);
  return (Date.now() - began) / 1000;
}

/** Follow links over five pages, and reload, while messages flow. */
export async function visit(tools, { group, query }) {
  const { origin, proxy } = tools;
  const before = (await proxy.state()).handshakes;
  const stop = speak(origin, group);
  const page = await tools.tab(`/shared/${group}/1/${query}`);
  for (let number = 2; number <= 5; number++) {
    await tools.shows(page, "got.length > 5");
    await assertComplete(page);
    await Promise.all([page.waitForNavigation(), page.click("#next")]);
    assert.equal(await page.evaluate("number"), number);
  }
  await tools.shows(page, "got.length > 5");
  await page.reload();
  await tools.shows(page, "got.length > 5");
  await completes(tools, page, await stop());
  const handshakes = (await proxy.state()).handshakes - before;
  // Firefox ends a shared worker with its last page.
  const most = tools.browserName === "firefox" ? 6 : 1;
  assert.ok(handshakes <= most, `${handshakes} handshakes`);
}

/** Go back and forward, with pages that are kept and pages that are loaded again. */
export async function history(tools, { group, query }) {
  const { origin } = tools;
  const stop = speak(origin, group);
  const page = await tools.tab(`/shared/${group}/1/${query}`);
  await tools.shows(page, "got.length > 2");
  await page.evaluate("window.mark = 1; void 0");
  await page.goto(`${origin}/shared/${group}/2/${query}`);
  await tools.shows(page, "got.length > 2");
  await page.evaluate("window.mark = 2; void 0");
  // Puppeteer waits for a load, which does not come if the browser has kept the page.
  await page.evaluate("void setTimeout(() => history.back())");
  await tools.shows(page, "number === 1");
  const isKept = (await page.evaluate("window.mark")) === 1;
  await pause(300);
  await assertComplete(page);
  await page.evaluate("void setTimeout(() => history.forward())");
  await tools.shows(page, "number === 2");
  await completes(tools, page, await stop());
  return { isKept };
}

/** Close the first of two tabs, then the second. */
export async function tabs(tools, { group }) {
  const { origin, proxy } = tools;
  const before = (await proxy.state()).handshakes;
  const old = await tools.tab(`/shared/${group}/1/`);
  await isOpen(tools, old);
  await say(origin, group, "1", "2", "3");
  await completes(tools, old, 3);
  // The second one is rendered later, and a third one is rendered before what it is shown after.
  const young = await tools.tab(`/shared/${group}/2/`);
  const stale = await tools.tab(`/shared/${group}/3/?at=1`);
  await isOpen(tools, young);
  await isOpen(tools, stale);
  await say(origin, group, "4");
  for (const page of [old, young, stale]) await completes(tools, page, 4);
  assert.equal((await proxy.state()).handshakes - before, 1);
  await old.close();
  await say(origin, group, "5");
  for (const page of [young, stale]) await completes(tools, page, 5);
  assert.equal((await proxy.state()).handshakes - before, 1);
  await young.close();
  await stale.close();
  return { seconds: await untilGone(tools) };
}

/** Duplicate a tab, with its sessionStorage. */
export async function duplicate(tools, { group }) {
  const { origin, proxy } = tools;
  const page = await tools.tab(`/shared/${group}/1/`);
  await isOpen(tools, page);
  await say(origin, group, "1", "2");
  await completes(tools, page, 2);
  // A page that is left stores its id.
  await page.reload();
  await isOpen(tools, page);
  const stored = await page.evaluate("JSON.stringify(sessionStorage)");
  assert.match(stored, /~/);
  const { handshakes } = await proxy.state();
  // What "Duplicate tab" does: a new tab with this storage and this URL.
  const copy = await tools.tab("/shared/header/");
  await copy.evaluate((text) => Object.assign(sessionStorage, JSON.parse(text)), stored);
  await copy.goto(page.url());
  await isOpen(tools, copy);
  await say(origin, group, "3");
  for (const each of [page, copy]) await completes(tools, each, 3);
  assert.notEqual(await page.evaluate("room.id"), await copy.evaluate("room.id"));
  assert.equal((await proxy.state()).handshakes, handshakes);
}

/** Kill the processes of a page, without a chance to say goodbye. */
export async function killed(tools, { group }) {
  const { origin } = tools;
  const page = await tools.tab(`/shared/${group}/1/`);
  await isOpen(tools, page);
  if (tools.browserName === "firefox") {
    // The process of the page has the worker, too.
    for (const pid of tools.children(/-contentproc .* tab$/)) process.kill(pid, "SIGKILL");
  } else {
    // The worker lives in the process of the first page, and closes the socket.
    const second = await tools.tab(`/shared/${group}/2/`);
    await isOpen(tools, second);
    const session = await second.createCDPSession();
    void session.send("Page.crash").catch(() => undefined);
    await page.close();
    await untilGone(tools);
    // A page whose worker dies with another page has a socket of its own then.
    const [third, fourth] = [await tools.tab(`/shared/${group}/3/`), await tools.tab(`/shared/${group}/4/`)];
    await isOpen(tools, fourth);
    await say(origin, group, "1");
    for (const each of [third, fourth]) await completes(tools, each, 1);
    void (await third.createCDPSession()).send("Page.crash").catch(() => undefined);
    await tools.shows(fourth, 'states.length > 1 && room.state === "open"');
    await say(origin, group, "2");
    await completes(tools, fourth, 2);
    await fourth.close();
  }
  return { seconds: await untilGone(tools) };
}

/** Sign in as another user in a second tab. */
export async function users(tools, { group }) {
  const { origin, proxy } = tools;
  const ann = await tools.tab("/login/?user=ann");
  await ann.goto(`${origin}/shared/${group}/1/`);
  await isOpen(tools, ann);
  await fetch(`${origin}/tell/?user=ann&say=for-ann`);
  await tools.shows(ann, "got.length === 1");
  const bob = await tools.tab("/login/?user=bob");
  await bob.goto(`${origin}/shared/${group}/2/`);
  await isOpen(tools, bob);
  await tools.shows(ann, "closes.length === 1");
  assert.equal(await ann.evaluate("closes[0].code"), 4401);
  assert.equal(await ann.evaluate("room.state"), "closed");
  const { handshakes } = await proxy.state();
  await fetch(`${origin}/tell/?user=bob&say=for-bob`);
  await say(origin, group, "1");
  await tools.shows(bob, "got.length === 2");
  // A page that was rendered for the first user cannot have the socket of the second one, either.
  assert.deepEqual(await ann.evaluate("got.map((text) => text.split(' ')[1])"), ["for-ann"]);
  assert.equal((await proxy.state()).handshakes, handshakes);
}

/** Cut the line while the browser is offline. */
export async function offline(tools, { group }) {
  const { origin, proxy } = tools;
  const page = await tools.tab(`/shared/${group}/1/`);
  await isOpen(tools, page);
  await say(origin, group, "1");
  await completes(tools, page, 1);
  await proxy.refuse();
  await proxy.cut();
  await page.setOfflineMode(true);
  await tools.shows(page, '!navigator.onLine && room.state !== "open"');
  await fetch(`${tools.direct}/kept/send/`, { method: "POST", body: JSON.stringify([{ group, text: "2" }]) });
  await proxy.resume();
  await page.setOfflineMode(false);
  await completes(tools, page, 2);
}

/** What a page does without a worker. */
export async function fallback(tools, { group }) {
  const { origin, proxy } = tools;
  const found = {};
  const queries = { refused: "?no-workers", missing: "?worker=/missing.js", old: "?worker=/shared/old-worker.js" };
  const elsewhere = `?worker=${encodeURIComponent(`${tools.direct}/wsmux/worker.js`)}`;
  for (const [name, query] of Object.entries({ ...queries, elsewhere })) {
    const before = (await proxy.state()).handshakes;
    const pages = [];
    for (const number of [1, 2]) {
      const page = await tools.tab(`/shared/${group}${name}/${number}/${query}`);
      pages.push(page);
      await isOpen(tools, page);
    }
    await say(origin, group + name, "1", "2");
    for (const page of pages) await completes(tools, page, 2);
    assert.equal((await proxy.state()).handshakes - before, 2, name);
    assert.ok(tools.lines.some((line) => line.includes("is not shared")), name);
    tools.lines = [];
    for (const page of pages) await page.close();
    await untilGone(tools);
  }
  // A browser without shared workers.
  const page = await tools.tab();
  await page.evaluateOnNewDocument("delete window.SharedWorker");
  await page.goto(`${origin}/shared/${group}/1/`);
  await isOpen(tools, page);
  await say(origin, group, "1");
  await completes(tools, page, 1);
  assert.deepEqual(tools.lines, []);
}

/** Which page gets what. */
export async function routes(tools, { group }) {
  const { origin } = tools;
  const [one, two] = [await tools.tab(`/shared/${group}/1/`), await tools.tab(`/shared/${group}/2/`)];
  for (const page of [one, two]) await isOpen(tools, page);
  // A message that excludes the page that has caused it.
  const ask = `wsmux.fetch("/shared/say/${group}/?text=mine", {method: "POST"}).then((response) => response.text())`;
  assert.equal(await one.evaluate(ask), await one.evaluate("room.id"));
  assert.match(await one.evaluate("room.id"), /^[\w-]+\.[a-z0-9]+$/);
  await say(origin, group, "all");
  for (const page of [one, two]) await tools.shows(page, 'got.includes("all")');
  assert.deepEqual(await one.evaluate("got"), ["all"]);
  assert.deepEqual(await two.evaluate("got"), ["mine", "all"]);
  // The header stays with this server, and window.fetch is what it was.
  const show = (call) => `${call}.then((response) => response.json()).then(({header}) => header)`;
  assert.match(await one.evaluate(show('wsmux.fetch("/shared/header/")')), /^[\w-]+\.[a-z0-9]+~[\w-]{22}$/);
  assert.match(await one.evaluate(show('wsmux.fetch(new Request("/shared/header/"), {room})')), /~/);
  assert.equal(await one.evaluate(show(`wsmux.fetch("${tools.direct}/shared/header/")`)), null);
  assert.equal(await one.evaluate(show('fetch("/shared/header/")')), null);
  const headers = (url) => one.evaluate(`wsmux.headers(${JSON.stringify(url)})`);
  assert.deepEqual(Object.keys(await headers("header/")), ["X-WebSocket-Client"]);
  assert.deepEqual(await headers(`${tools.direct}/shared/header/`), {});
  assert.deepEqual(await headers("javascript:alert()"), {});
  const redirected = `"/shared/redirect/?to=${encodeURIComponent(`${tools.direct}/shared/header/`)}"`;
  assert.equal(await one.evaluate(`wsmux.fetch(${redirected}).catch((error) => error.name)`), "TypeError");
}

/** Requests, groups that pages follow, and a message that comes too early. */
export async function talk(tools, { group }) {
  const query = "?at=&socket=/shared/talk/";
  const one = await tools.tab(`/shared/${group}/1/${query}`);
  await tools.shows(one, "got.length === 1");
  await tools.until("a warning", () => tools.lines.some((line) => line.includes("Render it into the page")));
  const two = await tools.tab(`/shared/${group}/2/${query}`);
  await isOpen(tools, two);
  assert.deepEqual(await two.evaluate("got"), []);
  const [first, second] = await Promise.all(
    [one, two].map((page, index) => page.evaluate(`room.request("ask", {number: ${index}})`)),
  );
  assert.deepEqual([first.number, second.number], [0, 1]);
  // The server gets the first follow and the last unfollow, whenever each page has signed its own.
  const follow = (page, type, signed) => page.evaluate(`room.request("${type}", {signed: "${signed}"})`);
  assert.equal((await follow(one, "follow", "room.1:1:abc")).signed, "room.1:1:abc");
  assert.equal((await follow(two, "follow", "room.1:2:def")).signed, "room.1:1:abc");
  assert.equal(await follow(one, "unfollow", "room.1:1:abc"), null);
  assert.equal((await follow(two, "unfollow", "room.1:2:def")).signed, "room.1:2:def");
  await follow(two, "follow", "room.2:1:abc");
  await two.close();
  const sent = 'got.slice(1).map(({type, signed}) => [type, signed])';
  await tools.shows(one, `(${sent}).length === 4`);
  assert.deepEqual(await one.evaluate(sent), [
    ["follow", "room.1:1:abc"],
    ["unfollow", "room.1:2:def"],
    ["follow", "room.2:1:abc"],
    ["unfollow", "room.2:1:abc"],
  ]);
}

/** Ask a page for a token. */
export async function tokens(tools, { group }) {
  const { origin, proxy } = tools;
  const [one, two] = [await tools.tab(`/shared/${group}/1/?auth`), await tools.tab(`/shared/${group}/2/?auth`)];
  for (const page of [one, two]) await isOpen(tools, page);
  assert.deepEqual(await one.evaluate("asked"), [false]);
  await one.close();
  await proxy.cut();
  await tools.shows(two, 'states.includes("waiting") && room.state === "open"');
  assert.deepEqual(await two.evaluate("asked"), [false]);
  // Not every error can be posted to the worker.
  const raise = 'auth: () => { throw new Error("no ticket", { cause: () => 1 }); }';
  await two.evaluate(`{
    const other = wsmux.connect("/kept/member/${group}/?raise", { shared: true, ${raise} });
    other.on("error", (error) => (window.failure ??= error.message));
  }`);
  await tools.shows(two, '/no ticket/.test(window.failure)');
  await say(origin, group, "1");
  await completes(tools, two, 1);
}

/** A page with a Content Security Policy. */
export async function policy(tools, { group }) {
  const { origin, proxy } = tools;
  const before = (await proxy.state()).handshakes;
  const pages = [await tools.tab(`/shared/${group}/1/`), await tools.tab(`/shared/${group}/2/`)];
  const header = (await fetch(`${origin}/shared/${group}/1/`)).headers.get("content-security-policy");
  assert.match(header, /script-src 'nonce-[^ ;]+'/);
  for (const page of pages) await isOpen(tools, page);
  await say(origin, group, "1");
  for (const page of pages) {
    await completes(tools, page, 1);
    assert.deepEqual(await page.evaluate("violations"), []);
  }
  assert.equal((await proxy.state()).handshakes - before, 1);
}

/** Close a room before its worker turns out to be missing. */
export async function hasty(tools, { group }) {
  const { proxy } = tools;
  const page = await tools.tab(`/shared/${group}/1/`);
  await isOpen(tools, page);
  const { handshakes } = await proxy.state();
  await page.evaluate(`{
    const options = { shared: true, worker: "/missing.js" };
    window.left = wsmux.connect("/kept/member/${group}/?left", options);
    left.close();
    window.other = wsmux.connect("/kept/member/${group}/?other", options);
  }`);
  // This one was opened later, and has a socket of its own already.
  await tools.shows(page, 'other.state === "open"');
  assert.equal(await page.evaluate("left.state"), "closed");
  assert.equal((await proxy.state()).handshakes, handshakes + 1);
  // Without a user, pages of several users could have one socket.
  await page.evaluate(`{
    document.querySelector("script[data-wsmux-user]").remove();
    window.unknown = wsmux.connect("/kept/member/${group}/", { shared: true, worker: "/wsmux/worker.js" });
  }`);
  await tools.shows(page, 'unknown.state === "open"');
  assert.equal((await proxy.state()).handshakes, handshakes + 2);
  assert.ok(tools.lines.some((line) => line.includes("use {% websocket_client %}")));
  // An address that is none rejects, as with window.fetch.
  assert.equal(await page.evaluate('wsmux.fetch("http://[").catch((error) => error.name)'), "TypeError");
}

/** Who is present: a page that comes later, and one that the browser has kept. */
export async function present(tools, { group }) {
  const { origin, proxy } = tools;
  const query = "?at=&socket=/asked/bare/";
  const tell = (page, presence) => page.evaluate((frame) => room.send(frame), { in: "g", presence });
  const names = "Object.keys(room.present.get('g') ?? {}).join()";
  const said = "people.map(({joined, left}) => Object.keys(joined) + '/' + Object.keys(left)).join(' ')";
  const one = await tools.tab(`/shared/${group}/1/${query}`);
  await isOpen(tools, one);
  const { handshakes } = await proxy.state();
  await tell(one, { all: { ann: {}, bob: {} } });
  await tools.shows(one, `${names} === "ann,bob"`);
  const two = await tools.tab(`/shared/${group}/2/${query}`);
  await tools.shows(two, `${names} === "ann,bob"`);
  await tell(two, { joined: { cid: {} }, left: ["ann"] });
  for (const page of [one, two]) {
    await tools.shows(page, `${names} === "bob,cid"`);
    assert.equal(await page.evaluate(said), "/ cid/ann");
  }
  // While it is left, people come and go.
  await one.evaluate("window.mark = 1; void 0");
  await one.goto(`${origin}/shared/header/`);
  await tell(two, { joined: { dan: {} }, left: ["bob"] });
  await tools.shows(two, `${names} === "cid,dan"`);
  await one.evaluate("void setTimeout(() => history.back())");
  await tools.shows(one, `${names} === "cid,dan"`);
  const isKept = (await one.evaluate("window.mark")) === 1;
  assert.equal(await one.evaluate(said), isKept ? "/ cid/ann dan/bob" : "/");
  assert.equal((await proxy.state()).handshakes, handshakes);
  return { isKept };
}
