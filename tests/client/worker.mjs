// The shared worker and its pages where something goes wrong. Here, ports stand for pages.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Clock, until } from "./clock.mjs";
import { address, proxy, tell } from "./support.mjs";
import { VERSION } from "../../client/src/port.ts";
import { Pages } from "../../client/src/pages.ts";

let clock;
let pages;
let opened;
let count = 0;

beforeEach(() => {
  clock = new Clock();
  pages = new Pages();
  opened = [];
});

afterEach(async () => {
  for (const page of opened) page.leave();
  // The last page is gone for a while, and the worker sees that.
  await until(async () => (await clock.advance(10_000)) ?? clock.waiting === 0, "the end of all timers");
  clock.stop();
  await proxy.resume();
});

/** A page: what it was told, by kind. */
class Page {
  constructor(path, { positions = [], auth } = {}) {
    const { port1, port2 } = new MessageChannel();
    opened.push(this);
    this.port = port1;
    this.told = [];
    port1.onmessage = ({ data }) => {
      this.told.push(...Object.entries(data));
      if (data.auth && auth) this.post({ token: [data.auth[0], auth()] });
    };
    pages.add(port2);
    const [url, page] = [address(path), `p${++count}`];
    this.post({ hello: { version: VERSION, url, page, identity: undefined, positions, auth: !!auth, locks: false } });
  }

  post(message) {
    this.port.postMessage(message);
  }

  send(value) {
    this.post({ send: JSON.stringify(value) });
  }

  leave() {
    this.post({ bye: true });
  }

  all(kind) {
    return this.told.filter(([each]) => each === kind).map(([, value]) => value);
  }

  async until(kind, number = 1) {
    await until(() => this.all(kind).length >= number, `${number} times ${kind}`);
    return this.all(kind).at(-1);
  }

  /** The texts of messages. */
  get texts() {
    return this.all("frame").map(({ text }) => text?.split(" ")[1]);
  }
}

const fresh = () => `c.pages-${process.pid}-${++count}`;

/** A group with one message, and a page that has it. */
async function begun() {
  const group = fresh();
  const path = `/asked/joining/?group=${group}`;
  const first = new Page(path);
  await first.until("opened");
  await tell(group, "1");
  return { group, path, first, at: (await first.until("frame")).at };
}

test("each of many requests is answered", async () => {
  const [page, other] = [new Page("/asked/answering/"), new Page("/asked/answering/")];
  await page.until("opened");
  for (let n = 0; n < 1500; n++) page.send({ type: "double", ref: n, n });
  await page.until("frame", 1500);
  assert.deepEqual(page.all("frame").map(({ reply }) => reply), Array.from({ length: 1500 }, (_, n) => 2 * n));
  // A reply that comes while its page is known is for this page only.
  const before = other.all("frame").length;
  page.send({ type: "double", ref: "last", n: 1 });
  await page.until("frame", 1501);
  other.send({ type: "double", ref: "other", n: 1 });
  await other.until("frame", before + 1);
  assert.deepEqual(other.all("frame").slice(before).map(({ ref }) => ref), ["other"]);
});

test("a page that has more than a gap is told neither the gap nor what it has", async () => {
  const { group, path, first, at } = await begun();
  const later = new Page(path, { positions: [[group, at.replace(/-1$/, "-7")]] });
  await later.until("opened");
  // The group keeps four messages.
  await proxy.cut();
  await until(() => first.all("state").at(-1)[0] === "waiting");
  for (const text of ["2", "3", "4", "5", "6"]) await tell(group, text);
  await clock.advance(30_000);
  assert.deepEqual(Object.keys(await first.until("gap")), [group]);
  await first.until("opened", 2);
  for (const text of ["7", "8"]) await tell(group, text);
  await first.until("frame", 3);
  await later.until("frame");
  assert.deepEqual(first.texts, ["1", "7", "8"]);
  assert.deepEqual([later.texts, later.all("gap")], [["8"], []]);
});

test("a page that brings nonsense is told a gap", async () => {
  const { group, path, first, at } = await begun();
  for (const position of [null, 5, "", "x", at.replace(/1$/, "x")]) {
    const page = new Page(path, { positions: [[group, position]] });
    assert.deepEqual(await page.until("gap"), { [group]: at }, String(position));
  }
  await tell(group, "2");
  await first.until("frame", 2);
  for (const page of opened) {
    await page.until("frame");
    assert.equal(page.texts.at(-1), "2");
  }
});

test("a new page does not wait for the next attempt", async () => {
  await proxy.refuse();
  const first = new Page("/echo/");
  const after = () => first.all("state").at(-1)?.[1].after;
  await until(async () => (await clock.advance(500)) ?? after() > 4, "a long wait");
  await proxy.resume();
  const second = new Page("/echo/");
  await second.until("state");
  await clock.advance(1000);
  await second.until("opened");
  await first.until("opened");
});

test("a page that does not answer is not waited for", async () => {
  const before = (await proxy.state()).handshakes;
  const first = new Page("/asked/whoami/", { auth: () => "good too late" });
  first.port.onmessage = ({ data }) => first.told.push(...Object.entries(data));
  await first.until("auth");
  await clock.advance(10_000);
  // There is no attempt without a token.
  await until(() => first.all("state").at(-1)[0] === "waiting");
  assert.equal((await proxy.state()).handshakes, before);
  await clock.advance(2000);
  await first.until("auth", 2);
  const second = new Page("/asked/whoami/", { auth: () => "good" });
  await second.until("hello");
  await clock.advance(10_000);
  assert.equal((await second.until("frame")).text, "good");
  assert.equal((await proxy.state()).handshakes, before + 1);
});

test("a page that leaves while it is asked for a token does not hold up the others", async () => {
  const before = (await proxy.state()).handshakes;
  const first = new Page("/asked/whoami/", { auth: () => "good too late" });
  first.port.onmessage = ({ data }) => first.told.push(...Object.entries(data));
  await first.until("auth");
  first.leave();
  // No page is left, so nothing can be opened.
  await until(async () => (await clock.advance(10)) ?? clock.waiting > 0);
  const second = new Page("/asked/whoami/", { auth: () => "good" });
  await second.until("hello");
  await clock.advance(2000);
  assert.equal((await second.until("frame")).text, "good");
  assert.equal((await proxy.state()).handshakes, before + 1);
});
