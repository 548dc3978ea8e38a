// Cases of test_streams.py: pages whose elements follow groups.

import assert from "node:assert/strict";
import { Board, pause, storm as blow } from "./storm.mjs";

/** Wait until a group has this many members. */
async function followed(tools, board, kind, count) {
  await tools.until(`${count} members of ${kind}.${board.name}`, async () => {
    const { members } = await board.sockets();
    return members[`${kind}.${board.name}`] === count;
  });
}

/** Click on a link, and wait for the page that Turbo or the browser shows then. */
async function next(tools, page) {
  const number = await page.evaluate('document.querySelector("#number").textContent');
  await page.evaluate('void setTimeout(() => document.querySelector("#next").click())');
  await tools.shows(page, `document.querySelector("#number").textContent === "${Number(number) + 1}"`);
}

async function gaps(page) {
  return page.evaluate("gaps");
}

/** Lines come, change and go. */
export async function live(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  await board.write("add", "add");
  const page = await tools.tab(board.path(kind));
  await board.equals(page);
  await followed(tools, board, kind, 1);
  for (const action of ["add", "add", "change", "remove", "add", "change"]) {
    await board.write(action);
    await board.equals(page);
  }
  assert.deepEqual(await gaps(page), []);
}

/** Lines that are written after the page is rendered, before it follows. */
export async function missed(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const coming = tools.tab(board.path(kind, 1, "?slow=1"));
  await pause(300);
  await board.write("add", "add", "change");
  const page = await coming;
  await board.equals(page);
  await board.write("add");
  await board.equals(page);
  assert.deepEqual(await gaps(page), []);
}

/** Three tabs with five streams each have one socket; the last one takes the follows with it. */
export async function tabs(tools, { board: name }) {
  const board = new Board(tools, name);
  const pages = [];
  // Those of earlier cases close.
  await tools.until("no open socket", async () => !(await board.sockets()).open);
  for (let number = 1; number <= 3; number++) {
    pages.push(await tools.tab(board.path("turbo", number, "?more=4")));
    await followed(tools, board, "more3", 1);
  }
  const { open, members } = await board.sockets();
  assert.equal(open, 1);
  const names = ["turbo", "more0", "more1", "more2", "more3"].map((kind) => `${kind}.${name}`);
  assert.deepEqual(names.map((each) => members[each]), [1, 1, 1, 1, 1]);
  await board.write("add", "add");
  for (const page of pages) await board.equals(page);
  await pages[0].close();
  await board.write("add");
  for (const page of pages.slice(1)) await board.equals(page);
  // A page without streams: the socket stays, for the other tab.
  await pages[1].evaluate('void setTimeout(() => Turbo.visit("/streamed/apart/"))');
  await tools.shows(pages[1], 'document.querySelector("#number").textContent === "0"');
  await board.write("add");
  await board.equals(pages[2]);
  await pages[2].evaluate('void setTimeout(() => Turbo.visit("/streamed/apart/"))');
  for (const kind of ["turbo", "more0", "more3"]) await followed(tools, board, kind, 0);
  assert.equal((await board.sockets()).open, 1);
}

/** The line is cut; lines are written before it is back. */
export async function cut(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind));
  await followed(tools, board, kind, 1);
  for (let count = 0; count < 3; count++) {
    await tools.proxy.refuse();
    await tools.proxy.cut();
    await board.write("add", "add", "change");
    await tools.proxy.resume();
    await board.equals(page);
  }
  assert.deepEqual(await gaps(page), []);
}

/** The server reloads: the socket moves to the new worker, with what it follows. */
export async function reload(tools, { board: name, kind, pid }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind));
  await followed(tools, board, kind, 1);
  const { handshakes } = await tools.proxy.state();
  const stop = board.speak(10);
  const headers = { Connection: "close" };
  const worker = async () => (await fetch(`${tools.direct}/`, { headers })).text();
  const old = await worker();
  process.kill(pid, "SIGHUP");
  await tools.until("a new worker", async () => (await worker()) !== old);
  await pause(500);
  await stop();
  await board.equals(page);
  await board.write("add");
  await board.equals(page);
  await followed(tools, board, kind, 1);
  assert.equal((await tools.proxy.state()).handshakes, handshakes);
  assert.deepEqual(await gaps(page), []);
  // The right to leave has moved, too.
  await page.evaluate('document.querySelector("websocket-stream").remove()');
  await followed(tools, board, kind, 0);
}

/** Turbo's visits, while lines are written: what comes between rendering and swap is not lost. */
export async function visit(tools, { board: name, query, isAlone }) {
  const board = new Board(tools, name);
  const page = await tools.tab();
  // Without shared workers, the page has a socket of its own.
  if (isAlone) await page.evaluateOnNewDocument("delete window.SharedWorker");
  await page.goto(tools.origin + board.path("turbo", 1, query));
  assert.equal(await page.evaluate("typeof SharedWorker"), isAlone ? "undefined" : "function");
  await followed(tools, board, "turbo", 1);
  await page.evaluate("window.mark = 1; void 0");
  const { handshakes } = await tools.proxy.state();
  const stop = board.speak(5);
  for (let number = 2; number <= 6; number++) await next(tools, page);
  for (const step of [-1, -2, 2]) {
    await page.evaluate(`void setTimeout(() => history.go(${step}))`);
    await pause(300);
  }
  await page.evaluate("void setTimeout(() => Turbo.session.refresh(document.baseURI))");
  await pause(300);
  await stop();
  await board.equals(page);
  assert.equal(await page.evaluate("window.mark"), 1);
  assert.equal((await tools.proxy.state()).handshakes, handshakes);
  assert.deepEqual(await gaps(page), []);
  // The view knew which page sent the request.
  const id = isAlone ? /^[\w-]+$/ : /^[\w-]+\.[a-z0-9]+$/;
  assert.match(await page.evaluate("document.body.dataset.client"), id);
}

/** The element, and its script, come with a visit of Turbo. */
export async function arrive(tools, { board: name }) {
  const board = new Board(tools, name);
  await board.write("add");
  const page = await tools.tab("/streamed/apart/");
  await tools.shows(page, "!!window.Turbo");
  await page.evaluate(`window.mark = 1; void setTimeout(() => Turbo.visit("${board.path("turbo")}"))`);
  await followed(tools, board, "turbo", 1);
  await board.write("add", "change");
  await board.equals(page);
  assert.equal(await page.evaluate("window.mark"), 1);
}

/** Two elements with the same group: each message once, until both have gone. */
export async function twice(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind, 1, "?twice"));
  await followed(tools, board, kind, 1);
  await board.write("add", "change");
  await board.equals(page);
  await page.evaluate('document.querySelector("#second").remove()');
  await board.write("add");
  await board.equals(page);
  await followed(tools, board, kind, 1);
  await page.evaluate('document.querySelector("websocket-stream").remove()');
  await followed(tools, board, kind, 0);
}

/** An element that goes and comes back, by innerHTML. */
export async function leave(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind));
  await followed(tools, board, kind, 1);
  await board.write("add");
  await board.equals(page);
  await page.evaluate(`{
    const element = document.querySelector("websocket-stream");
    window.kept = element.outerHTML;
    element.remove();
  }`);
  await followed(tools, board, kind, 0);
  await board.write("add", "change");
  await page.evaluate('void document.body.insertAdjacentHTML("beforeend", kept)');
  await followed(tools, board, kind, 1);
  await board.equals(page);
  await board.write("remove");
  await board.equals(page);
  assert.deepEqual(await gaps(page), []);
}

/** The browser keeps a page that is left, and shows it again. */
export async function bfcache(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind));
  await followed(tools, board, kind, 1);
  await board.write("add");
  await board.equals(page);
  await page.evaluate("window.mark = 1; void 0");
  await page.goto(`${tools.origin}/`);
  await board.write("add", "change");
  await page.evaluate("void setTimeout(() => history.back())");
  await tools.shows(page, '!!document.querySelector("#lines")');
  assert.equal(await page.evaluate("window.mark"), 1);
  await board.equals(page);
  await board.write("add");
  await board.equals(page);
  assert.deepEqual(await gaps(page), []);
}

/** The name has expired: the page is rendered again, and follows. */
export async function expired(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  await board.write("add");
  const page = await tools.tab(board.path(kind, 1, "?age=8"));
  await followed(tools, board, kind, 1);
  assert.deepEqual(await gaps(page), [`${kind}.${name}`]);
  await board.write("add", "add");
  await board.equals(page);
}

/** More was missed than is kept: the page is rendered again. */
export async function gap(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind));
  await followed(tools, board, kind, 1);
  await tools.proxy.refuse();
  await tools.proxy.cut();
  await board.write("add", "add", "add", "add", "change");
  await tools.proxy.resume();
  await board.equals(page);
  assert.deepEqual(await gaps(page), [`${kind}.${name}`]);
  await board.write("add");
  await board.equals(page);
}

/** The group of the user, which the socket is in without being asked: each message once, in each page. */
export async function own(tools, { board: name }) {
  const board = new Board(tools, name);
  const first = await tools.tab(`/login/?user=${name}`);
  const greet = async (text) => {
    assert.equal((await fetch(`${tools.direct}/streamed/greet/${name}/?text=${text}`)).status, 200);
  };
  const shows = (page, text) => tools.shows(page, `document.querySelector("#own").textContent === "${text}"`);
  await greet("0");
  await first.goto(tools.origin + board.path("turbo", 1, "?own"));
  await followed(tools, board, "turbo", 1);
  await greet("1");
  await shows(first, "1");
  const coming = tools.tab(board.path("turbo", 2, "?own"));
  await greet("2");
  const second = await coming;
  await greet("3");
  await shows(first, "123");
  await tools.shows(second, '/3$/.test(document.querySelector("#own").textContent)');
  await tools.proxy.refuse();
  await tools.proxy.cut();
  await greet("4");
  await tools.proxy.resume();
  await shows(first, "1234");
  await greet("5");
  await shows(first, "12345");
  await tools.shows(second, '/^2?345$/.test(document.querySelector("#own").textContent)');
  for (const page of [first, second]) assert.deepEqual(await gaps(page), []);
}

/** Names that were signed for others, or by no one, are not followed; the page goes on. */
export async function rejected(tools, { board: name }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path("turbo"));
  await followed(tools, board, "turbo", 1);
  await page.evaluate(`{
    const element = document.querySelector("websocket-stream").cloneNode();
    element.setAttribute("signed", "more0.${name}:x:y:z");
    document.body.append(element);
  }`);
  await tools.until("an error", () => tools.lines.some((line) => line.includes(`more0.${name}`)));
  await board.write("add");
  await board.equals(page);
  const { members } = await board.sockets();
  assert.equal(members[`more0.${name}`], 0);
  assert.deepEqual(await gaps(page), []);
}

/** A page with a Content Security Policy. */
export async function policy(tools, { board: name, kind }) {
  const board = new Board(tools, name);
  const page = await tools.tab(board.path(kind));
  await followed(tools, board, kind, 1);
  await board.write("add", "change");
  await board.equals(page);
  // Turbo has a style for its progress bar.
  const violations = (await page.evaluate("violations")).filter((name) => !name.startsWith("style-src"));
  assert.deepEqual(violations, []);
}

/** A storm. */
export async function storm(tools, { board: name, kind, query, cycles, pid }) {
  const board = new Board(tools, name);
  const pages = [];
  for (let number = 0; number < 3; number++) pages.push(await tools.tab(board.path(kind, number * 1000, query)));
  await blow(tools, pages, board, { cycles, pid, move: (page) => next(tools, page) });
  for (const page of pages) assert.deepEqual(await gaps(page), []);
}
