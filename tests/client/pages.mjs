// The shared worker's part: what it keeps for pages that come later, and what each page gets.
// test_shared.py has it in browsers; here, ports stand for pages.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Group } from "../../client/src/group.ts";
import { Pages } from "../../client/src/pages.ts";
import { VERSION } from "../../client/src/port.ts";
import { Clock, until } from "./clock.mjs";
import { LINE, get, proxy, tell } from "./support.mjs";

let clock;
let pages;
let ports;
let count = 0;

beforeEach(() => {
  clock = new Clock();
  pages = new Pages();
  ports = [];
});

afterEach(async () => {
  await leave();
  clock.stop();
  for (const each of ports) each.port.close();
});

/** Leave all pages. The last one takes the socket with it, after five seconds. */
async function leave() {
  for (const each of ports) each.post({ bye: true });
  await until(async () => {
    await clock.advance(1000);
    return !(await proxy.state()).open;
  }, "the end of the socket");
}

/** A page, and all that the worker has told it. */
class Port {
  constructor(path, positions = {}, more = {}) {
    const { port1, port2 } = new MessageChannel();
    this.port = port1;
    this.seen = [];
    port1.onmessage = ({ data }) => this.seen.push(data);
    pages.add(port2);
    const hello = { version: VERSION, url: LINE + path, page: `page${++count}`, auth: false };
    this.post({ hello: { ...hello, positions: Object.entries(positions), ...more } });
    ports.push(this);
  }

  post(message) {
    this.port.postMessage(message);
  }

  all(name) {
    return this.seen.filter((message) => name in message).map((message) => message[name]);
  }

  get texts() {
    return this.all("frame").map((frame) => frame.text?.split(" ")[1]);
  }

  until(name, number = 1) {
    return until(() => this.all(name).length >= number && this.all(name), `${number} times ${name}`);
  }
}

/** The name of a group that no other test uses. It keeps four messages. */
const fresh = () => `c.pages-${process.pid}-${++count}`;

const joining = (name) => `/asked/joining/?group=${name}`;

/** Return the position of a message, of the group that another position is of. */
const at = (position, offset) => position.replace(/-\d+$/, `-${offset}`);

const position = async (name) => get(`/kept/position/${name}/`);

test("a page gets what the worker has kept, and otherwise a gap of its own", async () => {
  const name = fresh();
  await tell(name, "m1");
  await tell(name, "m2");
  const newest = await position(name);
  const one = new Port(joining(name), { "": newest });
  await one.until("opened");
  assert.deepEqual(one.all("first"), [name]);
  for (const text of ["m3", "m4"]) await tell(name, text);
  await one.until("frame", 2);
  const two = new Port(joining(name), { [name]: at(newest, 3) });
  const three = new Port(joining(name), { "": at(newest, 1) });
  const four = new Port(joining(name));
  await three.until("gap");
  assert.deepEqual(three.all("gap"), [{ [name]: at(newest, 4) }]);
  await tell(name, "m5");
  for (const each of [two, three, four]) await each.until("frame");
  await two.until("frame", 2);
  await one.until("frame", 3);
  assert.deepEqual(one.texts, ["m3", "m4", "m5"]);
  assert.deepEqual(two.texts, ["m4", "m5"]);
  assert.deepEqual(three.texts, ["m5"]);
  assert.deepEqual(four.texts, ["m5"]);
  for (const each of [one, two, four]) assert.deepEqual(each.all("gap"), []);
});

test("a page that was rendered later than what the socket has gets nothing twice", async () => {
  const name = fresh();
  await tell(name, "m1");
  const newest = await position(name);
  const one = new Port(joining(name), { [name]: newest });
  await one.until("opened");
  const two = new Port(joining(name), { [name]: at(newest, 3) });
  await two.until("opened");
  for (const text of ["m2", "m3", "m4"]) await tell(name, text);
  await one.until("frame", 3);
  await two.until("frame");
  assert.deepEqual(two.texts, ["m4"]);
});

test("pages of an empty group miss nothing, whenever they were rendered", async () => {
  const name = fresh();
  const [early, middle] = [await position(name), await position(name)];
  const one = new Port(joining(name), { [name]: middle });
  await one.until("opened");
  const two = new Port(joining(name), { [name]: early });
  const late = await position(name);
  await two.until("opened");
  await tell(name, "m1");
  await one.until("frame");
  const three = new Port(joining(name), { [name]: late });
  for (const each of [one, two, three]) {
    await each.until("frame");
    assert.deepEqual(each.texts, ["m1"]);
    assert.deepEqual(each.all("gap"), []);
  }
});

test("a gap goes to the pages that are not at its position", async () => {
  const name = fresh();
  await tell(name, "m1");
  const newest = await position(name);
  const one = new Port(joining(name), { [name]: newest });
  await one.until("opened");
  await proxy.refuse();
  await proxy.cut();
  await one.until("closed");
  for (const text of ["m2", "m3", "m4", "m5", "m6"]) await tell(name, text);
  // This page has them all: it was rendered meanwhile.
  const two = new Port(joining(name), { [name]: at(newest, 6) });
  await two.until("hello");
  await proxy.resume();
  await clock.advance(30_000);
  await two.until("opened");
  await one.until("gap");
  assert.deepEqual(one.all("gap"), [{ [name]: at(newest, 6) }]);
  await tell(name, "m7");
  for (const each of [one, two]) {
    await each.until("frame");
    assert.deepEqual(each.texts, ["m7"]);
  }
  assert.deepEqual(two.all("gap"), []);
});

test("a position of a group that the view does not join is a gap, some time later", async () => {
  const [name, other] = [fresh(), fresh()];
  await tell(other, "m1");
  const one = new Port(joining(name));
  await one.until("opened");
  const two = new Port(joining(name), { [other]: await position(other) });
  await two.until("opened");
  assert.deepEqual(two.all("gap"), []);
  await clock.advance(5000);
  await two.until("gap");
  assert.deepEqual(two.all("gap"), [{ [other]: null }]);
  assert.deepEqual(one.all("gap"), []);
});

test("pages follow what a view joins later", async () => {
  const name = fresh();
  await tell(name, "m1");
  const newest = await position(name);
  await tell(name, "m2");
  const one = new Port("/asked/joining-later/", { [name]: newest });
  await one.until("opened");
  const two = new Port("/asked/joining-later/", { [name]: at(newest, 2) });
  await two.until("opened");
  one.post({ send: name });
  await one.until("frame");
  await tell(name, "m3");
  await two.until("frame");
  await one.until("frame", 2);
  assert.deepEqual(one.texts, ["m2", "m3"]);
  assert.deepEqual(two.texts, ["m3"]);
  await clock.advance(5000);
  for (const each of [one, two]) assert.deepEqual(each.all("gap"), []);
});

/** Follow a group; return the reply, and the texts that come after it until there are this many. */
async function follow(port, signed, at, number = 0) {
  const ref = `ref${++count}`;
  port.post({ send: JSON.stringify({ type: "follow", ref, signed, at }) });
  const answer = () => port.all("frame").findIndex((frame) => frame.ref === ref);
  await until(() => answer() >= 0 && port.all("frame").length > answer() + number, `an answer and ${number} texts`);
  const frames = port.all("frame").slice(answer());
  return [frames[0].reply ?? frames[0].errors, frames.slice(1).map((frame) => frame.text.split(" ")[1])];
}

test("a page that follows a group gets what is after its position, from the worker or the server", async () => {
  const name = fresh();
  const signed = await get(`/streamed/signed/${name}/`);
  await tell(name, "m1");
  const newest = await position(name);
  const one = new Port("/streamed/");
  await one.until("opened");
  const recovered = { in: name, recovered: true };
  assert.deepEqual(await follow(one, signed, newest), [recovered, []]);
  await tell(name, "m2");
  await tell(name, "m3");
  await one.until("frame", 3);
  const two = new Port("/streamed/");
  await two.until("opened");
  assert.deepEqual(await follow(two, signed, at(newest, 2), 1), [recovered, ["m3"]]);
  // The server still has it, the worker has not.
  const three = new Port("/streamed/");
  await three.until("opened");
  assert.deepEqual(await follow(three, signed, at(newest, 0), 3), [recovered, ["m1", "m2", "m3"]]);
  await tell(name, "m4");
  await tell(name, "m5");
  for (const each of [one, two, three]) await until(() => each.texts.includes("m5"), "the last text");
  const replies = (texts) => texts.filter((text) => text);
  assert.deepEqual(replies(one.texts), ["m2", "m3", "m4", "m5"]);
  assert.deepEqual(replies(two.texts), ["m3", "m4", "m5"]);
  assert.deepEqual(replies(three.texts), ["m1", "m2", "m3", "m4", "m5"]);
  // Its document is an earlier one again.
  assert.deepEqual(await follow(one, signed, at(newest, 3), 2), [recovered, ["m4", "m5"]]);
  // Neither has it.
  assert.deepEqual(await follow(two, signed, at(newest, 0)), [{ in: name, recovered: false }, []]);
  // Of the next connection, each asks again.
  await proxy.cut();
  await one.until("closed");
  await clock.advance(30_000);
  await one.until("opened", 2);
  assert.deepEqual(await follow(one, signed, at(newest, 4), 1), [recovered, ["m5"]]);
  assert.deepEqual(await follow(two, signed, at(newest, 5)), [recovered, []]);
  await tell(name, "m6");
  for (const each of [one, two]) await until(() => each.texts.includes("m6"), "the last text");
  for (const each of [one, two, three]) assert.deepEqual(each.all("gap"), []);
});

test("a name that the server does not accept is asked for again by the next page", async () => {
  const name = fresh();
  const signed = await get(`/streamed/signed/${name}/`);
  const one = new Port("/streamed/");
  await one.until("opened");
  const [errors] = await follow(one, `${signed}x`);
  assert.equal(errors.signed[0].code, "invalid");
  assert.deepEqual(await follow(one, signed), [{ in: name, recovered: null }, []]);
});

test("a page that comes later has the lists of who is present", async () => {
  const tell = (frame) => one.post({ send: JSON.stringify(frame) });
  const lists = (port) => port.all("frame").filter(({ presence }) => presence);
  const one = new Port("/asked/bare/");
  await one.until("opened");
  tell({ in: "g", presence: { joined: { x: 0 } } }); // of a list that was never told
  tell({ in: "g", presence: { all: { a: 1, b: 2 } } });
  tell({ in: "other", presence: { all: {} } });
  tell({ in: "g", presence: { joined: { c: 3 }, left: ["a"] } });
  await one.until("frame", 3);
  const two = new Port("/asked/bare/");
  await two.until("frame", 2);
  assert.deepEqual(lists(two), [
    { in: "g", presence: { all: { b: 2, c: 3 } } },
    { in: "other", presence: { all: {} } },
  ]);
  tell({ left: ["other"] });
  tell({ in: "g", presence: { left: ["b"] } });
  for (const [port, count] of [[one, 5], [two, 4]]) await port.until("frame", count);
  assert.deepEqual(two.all("frame").slice(2), [{ left: ["other"] }, { in: "g", presence: { left: ["b"] } }]);
  const three = new Port("/asked/bare/");
  await three.until("frame");
  assert.deepEqual(lists(three), [{ in: "g", presence: { all: { c: 3 } } }]);
  // After a reconnect, the server tells the lists of what the view joins again.
  await proxy.cut();
  await one.until("closed");
  await clock.advance(30_000);
  await one.until("opened", 2);
  const four = new Port("/asked/bare/");
  await four.until("opened");
  tell({ in: "g", presence: { all: { d: 4 } } });
  await four.until("frame");
  for (const each of [one, three, four]) {
    await until(() => lists(each).at(-1)?.presence.all?.d, "the new list");
  }
  assert.equal(lists(four).length, 1);
});

test("the id of the last page is for a worker that has none", async () => {
  const name = fresh();
  const one = new Port(joining(name));
  const [{ client }] = await one.until("opened");
  await leave();
  pages = new Pages();
  const two = new Port(joining(name), {}, { id: client });
  assert.equal((await two.until("opened"))[0].client, client);
  const three = new Port(joining(name), {}, { id: "another~signature" });
  assert.equal((await three.until("opened"))[0].client, client);
});

test("a page of another version is refused", async () => {
  const one = new Port(joining(fresh()));
  await one.until("opened");
  const two = new Port(joining(fresh()), {}, { version: VERSION + 1 });
  await two.until("hello");
  two.post({ send: "text" });
  assert.deepEqual(two.seen, [{ hello: VERSION }]);
});

test("a final close ends all pages, and the next page begins again", async () => {
  const one = new Port("/shared/talk/");
  await one.until("opened");
  const two = new Port("/shared/talk/");
  await two.until("opened");
  two.post({ send: '{"type": "close", "code": 4000}' });
  for (const each of [one, two]) assert.deepEqual(await each.until("closed"), [[4000, "as asked", true]]);
  const three = new Port("/shared/talk/");
  await three.until("opened");
  three.post({ send: '{"type": "ask", "ref": "r"}' });
  await three.until("frame", 2); // the first one is that of the view's connect()
  assert.equal(three.all("frame")[1].ref, "r");
});

// What is kept

const E = "store.epoch";
const message = (offset, text = "x") => ({ at: `${E}-${offset}`, in: "g", text });

function filled(number, text) {
  const group = new Group(`${E}-0`);
  for (let offset = 1; offset <= number; offset++) group.add(`${E}-${offset}`, message(offset, text));
  return group;
}

test("the last 200 messages of a group are kept", () => {
  const group = filled(201);
  assert.equal(group.since(`${E}-0`, `${E}-201`), undefined);
  assert.equal(group.since(`${E}-1`, `${E}-201`).length, 200);
  assert.deepEqual(group.since(`${E}-200`, `${E}-201`), [message(201)]);
  assert.deepEqual(group.since(`${E}-201`, `${E}-201`), []);
  assert.deepEqual(group.since(`${E}-300`, `${E}-201`), []);
});

test("at most 256 KiB of a group are kept", () => {
  const group = filled(10, "x".repeat(50 * 1024));
  assert.equal(group.since(`${E}-4`, `${E}-10`), undefined);
  assert.equal(group.since(`${E}-5`, `${E}-10`).length, 5);
});

test("a mark empties what is kept", () => {
  const group = filled(3);
  group.add(`${E}-4`, { at: `${E}-4`, in: "g" });
  assert.equal(group.since(`${E}-3`, `${E}-4`), undefined);
  group.add(`${E}-5`, message(5));
  assert.deepEqual(group.since(`${E}-4`, `${E}-5`), [message(5)]);
});

test("positions of other epochs and stores are gaps", () => {
  const group = filled(3);
  for (const other of ["store.other-2", "other.epoch-0", "other.epoch-3"]) {
    assert.equal(group.since(other, `${E}-3`), undefined, other);
  }
  assert.equal(group.since("store.other-0", `${E}-3`).length, 3);
});
