// Cases of test_htmx.py: a chat with htmx 2 or htmx 4.

import assert from "node:assert/strict";

/** The socket that htmx has. */
const SOCKET = {
  2: 'room["htmx-internal-data"]?.webSocket?.socket',
  4: "room._htmx?.ws?.connection?.socket",
};

/** Open a room; htmx says that the socket is open. */
async function open(tools, { group, version }, query = "", path = undefined) {
  const page = await tools.tab(path ?? `/htmx/${version}/${group}/?${query}`);
  await tools.shows(page, "opens === 1");
  return page;
}

/** Send lines to a room, not over the line. */
async function say(tools, group, ...texts) {
  const query = new URLSearchParams(texts.map((text) => ["text", text]));
  const response = await fetch(`${tools.direct}/htmx/send/${group}/?${query}`, { method: "POST" });
  assert.equal(await response.text(), "sent");
}

const lines = (page) => page.evaluate('[...document.querySelectorAll("#lines li")].map((line) => line.textContent)');

/** Wait until a page has these lines, and nothing else; nothing was missed. */
async function has(tools, page, ...texts) {
  await tools.shows(page, `document.querySelectorAll("#lines li").length >= ${texts.length}`);
  assert.deepEqual(await lines(page), texts);
  assert.deepEqual(await page.evaluate("gaps"), []);
}

/** Fill in the form of a page, and submit it. htmx listens a moment after it has put a form into the page. */
async function submit(tools, page, text, ...tags) {
  const listens = 'say["htmx-internal-data"]?.listenerInfos?.length || say._htmx?.ws?.sendInitialized';
  await tools.shows(page, `[document.getElementById("say")].every((say) => ${listens})`);
  await page.evaluate((text, tags) => {
    const form = document.getElementById("say");
    form.elements.text.value = text;
    for (const each of form.querySelectorAll("[name=tags]")) each.checked = tags.includes(each.value);
    form.requestSubmit();
  }, text, tags);
}

const isOpen = (tools, page, version) => tools.shows(page, `${SOCKET[version]}?.readyState === 1`);

/** Forms of htmx's own, over a socket that returns or over a plain one. */
async function chat(tools, options, query) {
  const one = await open(tools, options, query);
  const two = await open(tools, options, query);
  await submit(tools, one, "<b>first</b>", "a", "b");
  for (const page of [one, two]) await has(tools, page, "<b>first</b>");
  await submit(tools, two, "second", "b");
  for (const page of [one, two]) await has(tools, page, "<b>first</b>", "second");
  assert.deepEqual(await two.evaluate('[...document.querySelectorAll("#lines li")].map((line) => line.title)'), ["a b", "b"]);
  // An invalid one comes back as HTML, escaped, to the page that has sent it.
  const long = '"><script>window.hacked = true</script>';
  await submit(tools, one, long, "a");
  await tools.shows(one, 'document.querySelector("#say .errorlist")?.textContent.includes("at most 20")');
  const form = 'Object.fromEntries(new FormData(document.getElementById("say")))';
  assert.deepEqual(await one.evaluate(form), { type: "say", text: long, tags: "a" });
  assert.equal(await one.evaluate("window.hacked"), undefined);
  // So does an error that the view raises.
  await submit(tools, one, "banned");
  await tools.shows(one, 'document.querySelector("#say .errorlist.nonfield li")?.textContent === "No <b>such</b> words."');
  // A valid one is answered with an empty form.
  await submit(tools, one, "third");
  for (const page of [one, two]) await has(tools, page, "<b>first</b>", "second", "third");
  await tools.shows(one, `${form}.text === ""`);
  for (const page of [one, two]) {
    assert.equal(await page.evaluate('document.querySelector(".errorlist")'), null);
    assert.deepEqual(await page.evaluate("[closes, errors, opens]"), [[], [], 1]);
  }
  return one;
}

/** With the module. */
export async function forms(tools, options) {
  const page = await chat(tools, options, "");
  assert.equal(await page.evaluate(`${SOCKET[options.version]} instanceof WebSocket`), false);
  assert.equal(await page.evaluate("String(WebSocket).includes('[native code]')"), true);
}

/** All pages share a socket: only the page that has sent a form gets it back. */
export async function shared(tools, options) {
  const { handshakes } = await tools.proxy.state();
  await chat(tools, options, "shared");
  assert.equal((await tools.proxy.state()).handshakes, handshakes + 1);
}

/** Without the module: htmx alone, which opens a plain socket. */
export async function plain(tools, options) {
  // htmx 4 closes the socket of a hidden page, and gets all messages again when it is shown.
  const config = JSON.stringify({ ws: { pauseOnBackground: false } });
  const page = await chat(tools, options, new URLSearchParams({ plain: "", config }));
  assert.equal(await page.evaluate(`${SOCKET[options.version]} instanceof WebSocket`), true);
  // What came after the page was rendered.
  const late = await open(tools, options, "plain&old");
  await has(tools, late, "<b>first</b>", "second", "third");
}

/** Scripts that are deferred run after the module. */
export async function deferred(tools, options) {
  const page = await open(tools, options, "defer");
  assert.equal(await page.evaluate(`${SOCKET[options.version]} instanceof WebSocket`), false);
  await say(tools, options.group, "1");
  await has(tools, page, "1");
}

/** The line is cut; forms that are sent meanwhile wait. */
export async function cut(tools, options) {
  const { group, version } = options;
  const { proxy } = tools;
  await say(tools, group, "0");
  const page = await open(tools, options);
  await say(tools, group, "1");
  await has(tools, page, "0", "1");
  for (let round = 1; round <= 3; round++) {
    await proxy.refuse();
    await proxy.cut();
    await tools.shows(page, `${SOCKET[version]}.readyState === 0`);
    await say(tools, group, `${round}a`);
    await submit(tools, page, `${round}b`);
    await submit(tools, page, `${round}c`);
    await proxy.resume();
    await page.evaluate('dispatchEvent(new Event("online"))');
    await tools.shows(page, `document.querySelectorAll("#lines li").length === ${2 + 3 * round}`);
  }
  await has(tools, page, "0", "1", "1a", "1b", "1c", "2a", "2b", "2c", "3a", "3b", "3c");
  // htmx is told that the socket is open again, and never that it was closed.
  assert.deepEqual(await page.evaluate("[closes, errors, opens]"), [[], [], 4]);
}

/** Hide the page, and show it again; keep() is called while it is hidden. */
async function hide(tools, page, keep = () => undefined) {
  tools.other ??= await tools.tab("/");
  await tools.other.bringToFront();
  await tools.shows(page, "document.hidden");
  await keep();
  await page.bringToFront();
  await tools.shows(page, "!document.hidden");
}

/** A page that is hidden keeps its socket; the server takes new code meanwhile. */
export async function hidden(tools, options) {
  const { group, pid } = options;
  const page = await open(tools, options);
  const { handshakes } = await tools.proxy.state();
  await hide(tools, page, () => say(tools, group, "1", "2"));
  await has(tools, page, "1", "2");
  assert.deepEqual(await page.evaluate("[closes, errors, opens]"), [[], [], 1]);
  assert.equal((await tools.proxy.state()).handshakes, handshakes);
  process.kill(pid, "SIGHUP");
  await hide(tools, page, () => say(tools, group, "3", "4"));
  await say(tools, group, "5");
  await has(tools, page, "1", "2", "3", "4", "5");
  assert.deepEqual(await page.evaluate("[closes, errors]"), [[], []]);
}

/** Codes that are final. */
export async function closes(tools, options) {
  const { group, version } = options;
  for (const code of [4403, 1008, 4000, 1000]) {
    const page = await open(tools, options);
    await page.evaluate((code) => {
      const form = document.getElementById("say");
      form.innerHTML = `<input name="type" value="close"><input name="code" value="${code}">`;
      form.requestSubmit();
    }, code);
    await tools.shows(page, "closes.length");
    await tools.until("no open socket", async () => !(await tools.proxy.state()).open);
    const { handshakes } = await tools.proxy.state();
    await page.evaluate('dispatchEvent(new Event("online"))');
    await hide(tools, page);
    await say(tools, group, "more");
    assert.deepEqual(await page.evaluate("[closes, opens]"), [[code], 1]);
    assert.deepEqual(await tools.proxy.state(), { handshakes, open: 0 });
    await page.close();
  }
  // A handshake that is refused.
  const page = await tools.tab(`/htmx/${version}/roomforbidden/`);
  await tools.shows(page, "closes.length");
  assert.deepEqual(await page.evaluate("[closes, opens]"), [[4403], 0]);
}

/** Elements that are gone. */
export async function removed(tools, options) {
  const { group } = options;
  const isGone = () => tools.until("no open socket", async () => !(await tools.proxy.state()).open);
  await isGone();
  // htmx puts another element there.
  let page = await open(tools, options);
  await page.evaluate('document.getElementById("swap").click()');
  await tools.shows(page, 'document.getElementById("nothing") !== null');
  await isGone();
  await page.close();
  // A script takes it out: htmx sees this when a message comes.
  page = await open(tools, options);
  await page.evaluate("room.remove()");
  await say(tools, group, "1");
  await isGone();
  assert.deepEqual(await page.evaluate("errors"), []);
}

/** Leave the page, and come back to it. */
export async function kept(tools, options) {
  const { group, version } = options;
  const page = await open(tools, options, options.query);
  await say(tools, group, "1");
  await has(tools, page, "1");
  await page.evaluate("window.mark = 1; void 0");
  await page.goto(`${tools.origin}/?other`);
  await say(tools, group, "2", "3");
  await page.evaluate("void setTimeout(() => history.back())");
  await tools.shows(page, 'document.getElementById("room") !== null');
  const isKept = (await page.evaluate("window.mark")) === 1;
  await isOpen(tools, page, version);
  await say(tools, group, "4");
  await has(tools, page, "1", "2", "3", "4");
  assert.deepEqual(await page.evaluate("[closes, errors]"), [[], []]);
  return { isKept };
}

/** What is forgotten is missed. */
export async function gap(tools, options) {
  const page = await open(tools, options);
  await fetch(`${tools.direct}/kept/forget/${options.group}/`, { method: "POST" });
  await tools.shows(page, "gaps.length");
  assert.deepEqual(await page.evaluate("gaps"), [["room", [options.group]]]);
}

/** Which requests have the header. */
export async function header(tools, options) {
  const config = { 2: "selfRequestsOnly:false", 4: 'mode:"cors"' }[options.version];
  for (const [own, query] of [[true, ""], [options.version === 2, config]]) {
    const json = query && JSON.stringify({ [query.split(":")[0]]: query.includes("cors") ? "cors" : false });
    const page = await open(tools, options, new URLSearchParams({ other: tools.direct, config: json }));
    const answer = '(document.getElementById("answer").textContent || "{}")';
    await page.evaluate('document.getElementById("get").click()');
    await tools.shows(page, `"header" in JSON.parse${answer}`);
    const { header } = await page.evaluate(`JSON.parse${answer}`);
    if (own) assert.match(header, /^[\w-]+~[\w-]{22}$/);
    else assert.equal(header, null);
    if (!query) continue;
    // Another server.
    await page.evaluate('document.getElementById("answer").textContent = ""');
    await page.evaluate('document.getElementById("other").click()');
    await tools.shows(page, `"header" in JSON.parse${answer}`);
    assert.deepEqual(await page.evaluate(`JSON.parse${answer}`), { header: null });
  }
}

/** Go to another place with htmx, and back. */
export async function history(tools, options) {
  const { group, version } = options;
  const page = await open(tools, options);
  await say(tools, group, "1", "2");
  await has(tools, page, "1", "2");
  for (let round = 1; round <= 2; round++) {
    await page.evaluate('document.getElementById("away").click()');
    await tools.shows(page, 'document.getElementById("nothing") !== null');
    await say(tools, group, `away ${round}`);
    await page.evaluate("void setTimeout(() => history.back())");
    await tools.shows(page, 'document.getElementById("room") !== null');
    await isOpen(tools, page, version);
    await say(tools, group, `back ${round}`);
    const texts = ["away 1", "back 1", "away 2", "back 2"].slice(0, 2 * round);
    await has(tools, page, "1", "2", ...texts);
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Say numbers, one every few milliseconds. Return a function that ends it and returns the last. */
function speak(tools, group) {
  let isStopped = false;
  const spoken = (async () => {
    let count = 0;
    while (!isStopped) {
      await say(tools, group, String(++count));
      await pause(20);
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

/** The lines, without the space between them. */
const SHOWN = '[...document.querySelectorAll("#lines li")].map((line) => line.outerHTML).join()';

/** Two pages are hidden and shown in turn, under load; in the middle the server reloads. */
export async function storm(tools, options) {
  const { group, cycles, pid, version, query } = options;
  const began = Date.now();
  const { handshakes } = await tools.proxy.state();
  const pages = [await open(tools, options, query), await open(tools, options, query)];
  const stop = speak(tools, group);
  for (let cycle = 0; cycle < cycles; cycle++) {
    if (cycle === cycles >> 1) process.kill(pid, "SIGHUP");
    if (cycle % 10 === 3) await tools.proxy.cut();
    for (const page of pages) {
      await page.bringToFront();
      for (const each of pages) await tools.shows(each, `document.hidden === ${each !== page}`);
    }
    await submit(tools, pages[cycle % 2], `cycle ${cycle}`);
  }
  const count = await stop();
  await say(tools, group, "end");
  const fresh = await open(tools, options);
  for (const page of [...pages, fresh]) {
    // htmx 4 waits for a timer after each message, which takes a second in a hidden page.
    await page.bringToFront();
    await tools.shows(page, '[...document.querySelectorAll("#lines li")].some((line) => line.textContent === "end")');
  }
  // One order, and nothing twice. A form that waited for the socket may come after the end.
  const shownBy = () => Promise.all([...pages, fresh].map((page) => page.evaluate(SHOWN)));
  const areEqual = async () => new Set(await shownBy()).size === 1;
  await tools.until("equal pages", areEqual).catch(async () => assert.fail((await shownBy()).join("\n")));
  for (const page of pages) assert.deepEqual(await page.evaluate("[closes, errors, gaps]"), [[], [], []]);
  // A new page: what the server has.
  const last = await open(tools, options);
  assert.equal(await last.evaluate(SHOWN), await fresh.evaluate(SHOWN));
  const shown = await lines(fresh);
  const submitted = new Set(shown.filter((text) => text.startsWith("cycle"))).size;
  const numbers = shown.filter((text) => !text.startsWith("cycle"));
  assert.deepEqual(numbers, [...Array.from({ length: count }, (_, index) => `${index + 1}`), "end"]);
  assert.equal(shown.length, submitted + count + 1);
  const opens = await Promise.all(pages.map((page) => page.evaluate("opens")));
  const more = (await tools.proxy.state()).handshakes - handshakes;
  return { version, cycles, count, submitted, opens, handshakes: more, seconds: (Date.now() - began) / 1000 };
}
