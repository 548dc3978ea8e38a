// Who is present in a group: the lists that a page has, and the events of their changes.
// The view sends each message back as a frame.

import assert from "node:assert/strict";
import { test } from "node:test";
import { after } from "../../client/src/presence.ts";
import { proxy } from "./support.mjs";
import { clock, watch } from "./watching.mjs";

const bare = (value) => Object.assign(Object.create(null), value);

/** Open a connection that keeps the events of presence. */
async function open() {
  const watched = watch("/asked/bare/");
  watched.events = [];
  watched.room.on("presence", (event) => watched.events.push(event));
  watched.frame = (frame) => watched.room.send(frame);
  watched.tell = (presence, group = "g") => watched.frame({ in: group, presence });
  /** Wait until all frames have come; return the events since the last time. */
  watched.news = async () => {
    const count = watched.all("message").length;
    watched.frame({ data: "end" });
    await watched.until("message", count + 1);
    return watched.events.splice(0);
  };
  await watched.until("open");
  return watched;
}

/** Lose the connection, and return. */
async function returns(watched) {
  const count = watched.all("open").length;
  await proxy.cut();
  await watched.state("waiting");
  await clock.advance(30_000);
  await watched.until("open", count + 1);
}

const event = (group, present, joined = {}, left = {}) => ({
  group,
  present: bare(present),
  joined: bare(joined),
  left: bare(left),
});

test("a page has the list, and is told who comes, changes and goes", async () => {
  const one = await open();
  const [ann, bob] = [{ name: "Ann" }, { name: "Bob" }];
  one.tell({ all: { 1: ann } });
  one.tell({ joined: { 2: bob } });
  one.tell({ joined: { 2: { name: "Rob" }, 3: null } });
  one.tell({ joined: { 4: 0 }, left: ["2"] });
  one.tell({ left: ["3", "4", "unknown"] });
  const rob = { name: "Rob" };
  assert.deepEqual(await one.news(), [
    event("g", { 1: ann }),
    event("g", { 1: ann, 2: bob }, { 2: bob }),
    event("g", { 1: ann, 2: rob, 3: null }, { 2: rob, 3: null }),
    event("g", { 1: ann, 3: null, 4: 0 }, { 4: 0 }, { 2: rob }),
    event("g", { 1: ann }, {}, { 3: null, 4: 0 }),
  ]);
  assert.deepEqual([...one.room.present], [["g", bare({ 1: ann })]]);
  // Nothing that the page does not know yet.
  one.tell({ joined: { 1: ann } });
  one.tell({ left: ["2"] });
  one.tell({ all: { 1: ann } });
  one.tell({});
  assert.deepEqual(await one.news(), []);
  assert.deepEqual(one.all("error"), []);
});

test("an empty list is told, and each group has its own", async () => {
  const one = await open();
  one.tell({ all: {} });
  one.tell({ all: { a: 1 } }, "other");
  one.tell({ joined: { b: 2 } });
  assert.deepEqual(await one.news(), [event("g", {}), event("other", { a: 1 }), event("g", { b: 2 }, { b: 2 })]);
  assert.deepEqual([...one.room.present], [["g", bare({ b: 2 })], ["other", bare({ a: 1 })]]);
});

test("after a reconnect, only what has changed meanwhile is told", async () => {
  const one = await open();
  one.tell({ all: { a: { n: 1 }, b: { n: 2 }, c: { n: 3 } } });
  await one.news();
  await returns(one);
  assert.deepEqual([...one.room.present.keys()], ["g"]);
  one.tell({ all: { c: { n: 3 }, b: { n: 2 }, a: { n: 1 } } });
  assert.deepEqual(await one.news(), []);
  await returns(one);
  one.tell({ all: { b: { n: 2 }, c: { n: 4 }, d: { n: 5 } } });
  assert.deepEqual(await one.news(), [
    event("g", { b: { n: 2 }, c: { n: 4 }, d: { n: 5 } }, { c: { n: 4 }, d: { n: 5 } }, { a: { n: 1 } }),
  ]);
});

test("a group that is left has no list, and begins again", async () => {
  const one = await open();
  one.tell({ all: { a: 1 } });
  one.tell({ all: { a: 1 } }, "other");
  await one.news();
  one.frame({ left: ["g", "unknown"] });
  // This was on its way.
  one.tell({ joined: { b: 2 } });
  assert.deepEqual(await one.news(), []);
  assert.deepEqual([...one.room.present.keys()], ["other"]);
  one.tell({ all: { b: 2 } });
  assert.deepEqual(await one.news(), [event("g", { b: 2 })]);
});

test("a room that is closed has no lists", async () => {
  const one = await open();
  one.tell({ all: { a: 1 } });
  await one.news();
  one.room.close();
  assert.deepEqual([...one.room.present], []);
  assert.deepEqual(one.events, []);
});

test("each text can be a key, and the name of a group", async () => {
  const one = await open();
  const odd = JSON.parse('{"__proto__": {"n": 1}, "constructor": {"n": 2}, "": null}');
  one.frame(`{"in": "__proto__", "presence": {"all": ${JSON.stringify(odd)}}}`);
  const [{ group, present, joined, left }] = await one.news();
  assert.equal(group, "__proto__");
  assert.deepEqual(Object.entries(present), Object.entries(odd));
  assert.deepEqual([present["__proto__"], present.toString], [{ n: 1 }, undefined]);
  assert.deepEqual([joined["__proto__"], left.constructor], [undefined, undefined]);
  assert.equal({}.n, undefined);
  const gone = Object.create(null);
  for (const key of ["__proto__", "constructor"]) gone[key] = odd[key];
  one.tell({ joined: { toString: 1 }, left: ["__proto__", "constructor", "valueOf"] }, "__proto__");
  assert.deepEqual(await one.news(), [
    { group, present: bare({ toString: 1, "": null }), joined: bare({ toString: 1 }), left: gone },
  ]);
  assert.deepEqual(one.all("error"), []);
});

test("the list of a page is that of the server, whatever the order of events", () => {
  let seed = 7;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  let people;
  const model = new Map();
  for (let round = 0; round < 2000; round++) {
    const joined = {};
    const left = [];
    for (let count = random(4); count; count--) joined[`k${random(8)}`] = random(3);
    for (let count = random(3); count; count--) {
      const key = `k${random(8)}`;
      if (!(key in joined)) left.push(key);
    }
    for (const [key, info] of Object.entries(joined)) model.set(key, info);
    for (const key of left) model.delete(key);
    const isWhole = !people || !random(10);
    people = after(people, isWhole ? { all: Object.fromEntries(model) } : { joined, left });
    assert.deepEqual(new Map(Object.entries(people).sort()), new Map([...model].sort()));
  }
});
