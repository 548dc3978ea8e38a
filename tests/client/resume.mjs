// What a connection missed: positions, gaps, and what the next page continues from.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { until } from "./clock.mjs";
import { SITE, get, proxy, tell } from "./support.mjs";
import { clock, watch } from "./watching.mjs";

let count = 0;

afterEach(() => {
  delete globalThis.sessionStorage;
});

/** The name of a group that no other test uses. It keeps four messages. */
const fresh = () => `c.${process.pid}-${++count}`;

const joining = (...groups) => `/asked/joining/?${groups.map((name) => `group=${name}`).join("&")}`;

/** Cut the connection, do something, and return. */
async function away(watched, action) {
  const count = watched.all("open").length;
  await proxy.cut();
  await watched.state("waiting");
  await action();
  await clock.advance(30_000);
  await watched.until("open", count + 1);
}

/** The second words of all texts, which `tell()` sends. */
const told = (watched) => watched.all("message").map((text) => text.split(" ")[1]);

const positions = (watched) =>
  watched.seen.filter(([name]) => name === "message").map(([, , info]) => info.at);

/** Something like sessionStorage. */
function storage() {
  const items = new Map();
  globalThis.sessionStorage = {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
  };
  return items;
}

test("messages that were missed arrive once and in order", async () => {
  const group = fresh();
  const room = watch(joining(group));
  await room.until("open");
  await tell(group, "one");
  await room.until("message");
  for (const [two, three] of [["two", "three"], ["four", "five"]]) {
    await away(room, async () => {
      await tell(group, two);
      await tell(group, three);
    });
  }
  await tell(group, "six");
  await room.until("message", 6);
  assert.deepEqual(told(room), ["one", "two", "three", "four", "five", "six"]);
  await clock.advance(60_000);
  assert.deepEqual(room.all("gap"), []);
});

test("a connection that was refused several times misses nothing either", async () => {
  const group = fresh();
  const room = watch(joining(group));
  await room.until("open");
  await proxy.refuse();
  await proxy.cut();
  await tell(group, "one");
  for (let failures = 1; failures < 5; failures++) {
    await until(async () => (await clock.advance(1000)) ?? room.all("state").at(-1).attempts > failures);
  }
  await proxy.resume();
  await until(async () => (await clock.advance(1000)) ?? room.room.state === "open");
  assert.match(await room.until("message"), / one$/);
});

test("a page brings positions: in an object, in a text with names, in one without", async () => {
  const [group, other] = [fresh(), fresh()];
  const first = watch(joining(group, other));
  await first.until("open");
  await tell(group, "one");
  await tell(other, "first");
  await first.until("message", 2);
  const [at, otherAt] = positions(first);
  await tell(group, "two");
  await tell(other, "second");
  for (const brought of [
    { [group]: at, [other]: otherAt },
    `${encodeURIComponent(group)}@${at},${encodeURIComponent(other)}@${otherAt}`,
  ]) {
    const room = watch(joining(group, other), { at: brought });
    await room.until("message", 2);
    assert.deepEqual(told(room).sort(), ["second", "two"]);
  }
  const room = watch(joining(group), { at });
  await room.until("message");
  await away(room, () => tell(group, "three"));
  await room.until("message", 2);
  assert.deepEqual(told(room), ["two", "three"]);
});

test("a function view joins later, and replays", async () => {
  for (const isNamed of [false, true]) {
    const group = fresh();
    const first = watch(joining(group));
    await first.until("open");
    await tell(group, "one");
    await first.until("message");
    const [at] = positions(first);
    await tell(group, "two");
    const room = watch("/asked/joining-later/", { at: isNamed ? { [group]: at } : at });
    await room.until("open");
    room.room.send(group);
    await room.until("message");
    await away(room, () => tell(group, "three"));
    room.room.send(group);
    await room.until("message", 2);
    await clock.advance(60_000);
    assert.deepEqual([told(room), room.all("gap")], [["two", "three"], []]);
  }
});

test("a gap is told after up to five seconds, and once", async () => {
  const group = fresh();
  const room = watch(joining(group));
  await room.until("open");
  await tell(group, "one");
  await room.until("message");
  await away(room, async () => {
    for (const word of ["2", "3", "4", "5", "6"]) await tell(group, word);
  });
  await tell(group, "7");
  await room.until("message", 2);
  assert.deepEqual(told(room), ["one", "7"]); // all or nothing
  assert.deepEqual(room.all("gap"), []);
  await clock.advance(5000);
  const [gap] = room.all("gap");
  assert.deepEqual(Object.keys(gap), [group]);
  assert.match(gap[group], /-6$/);
  await clock.advance(60_000);
  assert.equal(room.all("gap").length, 1);
});

test("further gaps of a group wait, are merged, and none is lost", async () => {
  const group = fresh();
  const room = watch(joining(group));
  await room.until("open");
  const forget = async () => {
    const count = room.all("message").length;
    await get(`/kept/forget/${group}/`);
    await tell(group, "x");
    await room.until("message", count + 1);
  };
  await tell(group, "x");
  await room.until("message");
  await forget();
  await clock.advance(5000);
  assert.equal(room.all("gap").length, 1);
  await forget();
  await clock.advance(20_000);
  await forget();
  assert.equal(room.all("gap").length, 1);
  await clock.advance(10_000);
  assert.equal(room.all("gap").length, 2);
  const newest = positions(room).at(-1);
  assert.equal(room.all("gap")[1][group].split("-")[0], newest.split("-")[0]);
  await clock.advance(100_000);
  assert.equal(room.all("gap").length, 2);
});

test("positions in the URL count, too", async () => {
  const group = fresh();
  await tell(group, "1");
  const at = await get(`/kept/position/${group}/`);
  for (const word of ["2", "3", "4", "5", "6", "7"]) await tell(group, word);
  const late = watch(`${joining(group)}&at=${at}`);
  await late.until("open");
  await clock.advance(5000);
  assert.deepEqual(late.all("gap"), [{ [group]: at.replace(/1$/, "7") }]);
  const room = watch(`${joining(group)}&at=${at.replace(/1$/, "6")}`);
  await room.until("message");
  await away(room, () => tell(group, "8"));
  await room.until("message", 2);
  await clock.advance(60_000);
  assert.deepEqual([told(room), room.all("gap")], [["7", "8"], []]);
});

test("a group may have any name", async () => {
  // The positions of pages are JSON.
  const room = watch("/echo/", { at: JSON.parse('{"__proto__": "k3v9.h1-1", "constructor": "k3v9.h1-1"}') });
  await room.until("open");
  await clock.advance(10_000);
  assert.equal(JSON.stringify(room.all("gap")), '[{"__proto__":null,"constructor":null}]');
});

test("a position of which the server tells nothing is a gap", async () => {
  const room = watch("/echo/", { at: { nowhere: "k3v9.h1-42" } });
  await room.until("open");
  await clock.advance(4999);
  assert.deepEqual(room.all("gap"), []);
  await clock.advance(5001);
  assert.deepEqual(room.all("gap"), [{ nowhere: null }]);
  await away(room, () => undefined);
  await clock.advance(60_000);
  assert.equal(room.all("gap").length, 1);
});

test("positions that do not fit are gaps: the oldest ones", async () => {
  const group = fresh();
  const seat = watch(joining(group));
  await seat.until("open");
  await tell(group, "one");
  await seat.until("message");
  const [at] = positions(seat);
  const at70 = { [group]: at };
  for (let number = 0; number < 70; number++) at70[`other-${number}`] = "k3v9.h1-42";
  const room = watch(joining(group), { at: at70 });
  await room.until("open");
  await clock.advance(5000);
  assert.ok(group in room.all("gap")[0]);
  await clock.advance(5000);
  assert.equal(Object.keys(room.all("gap")[1]).length, 70);
});

test("only the newest value, for a group that keeps one message", async () => {
  const group = `c.value-${process.pid}`;
  const room = watch(joining(group));
  await room.until("open");
  await tell(group, "one");
  await room.until("message");
  await away(room, async () => {
    for (const word of ["two", "three"]) await tell(group, word);
  });
  await room.until("message", 2);
  await away(room, () => undefined);
  await tell(group, "four");
  await room.until("message", 3);
  await clock.advance(60_000);
  assert.deepEqual([told(room), room.all("gap")], [["one", "three", "four"], []]);
});

test("a view that handles messages itself sends marks, and nothing comes twice", async () => {
  const group = fresh();
  const room = watch(`/events/watching/${group}/`);
  // The answer to a message comes after the mark.
  const answer = async (count) => {
    await room.until("message", count);
    room.room.send("hello");
    await room.until("message", count + 1);
  };
  await room.until("open");
  await tell(group, "one");
  await answer(1);
  await away(room, () => tell(group, "two"));
  await answer(3);
  await away(room, () => undefined);
  await tell(group, "three");
  await answer(5);
  const said = room.all("message").map((text) => text.match(/(\w+)'$/)[1]);
  assert.deepEqual(said, ["one", "hello", "two", "hello", "three", "hello"]);
});

test("positions of binary messages count, too", async () => {
  const group = fresh();
  const path = `/events/room/${group}/`;
  const speaker = new WebSocket(`${SITE.replace("http", "ws")}${path}`);
  await new Promise((resolve) => (speaker.onmessage = resolve));
  const room = watch(path);
  await room.until("message");
  speaker.send(new Uint8Array([1]));
  await room.until("message", 2);
  await away(room, () => {
    speaker.send(new Uint8Array([2]));
    speaker.send(new Uint8Array([3]));
  });
  const bytes = () => room.all("message").filter((value) => value instanceof ArrayBuffer);
  await until(() => bytes().length >= 3);
  assert.deepEqual(bytes().map((value) => new Uint8Array(value)[0]), [1, 2, 3]);
  const infos = room.seen.filter(([, value]) => value instanceof ArrayBuffer).map(([, , info]) => info);
  speaker.close();
  assert.ok(infos.every((info) => info.in === group && /-\d+$/.test(info.at)));
});

test("persist: the next page in this tab continues", async () => {
  const items = storage();
  const [group, other] = [fresh(), fresh()];
  const path = joining(group, other);
  const room = watch(path, { persist: true });
  await room.until("open");
  for (const word of ["one", "two", "three"]) await tell(group, word);
  await tell(other, "1");
  await room.until("message", 4);
  const [one] = positions(room);
  room.room.close();
  await tell(group, "four");
  await tell(other, "2");
  const next = watch(path, { persist: true });
  await next.until("message", 2);
  assert.deepEqual(told(next).sort(), ["2", "four"]);
  assert.equal(next.room.id, room.room.id);
  next.room.close();
  await tell(other, "3");
  // The page's own position wins; the other group continues.
  const own = watch(path, { persist: true, at: { [group]: one } });
  await own.until("message", 4);
  assert.deepEqual(told(own).sort(), ["3", "four", "three", "two"]);
  own.room.close();
  const [[key, value]] = items;
  assert.ok(key.includes(path));
  assert.match(value, /"positions":/);
});

test("persist: a position without a name wins, too", async () => {
  storage();
  const group = fresh();
  const path = joining(group);
  const first = watch(path);
  await first.until("open");
  for (const word of ["one", "two"]) await tell(group, word);
  await first.until("message", 2);
  const [one, two] = positions(first);
  // The first page stores nothing about a group of this name; the later ones do.
  for (const [at, expected] of [[one, ["two"]], [one, ["two", "end"]], [two, ["end", "end"]]]) {
    const room = watch(path, { persist: true, at });
    await room.until("open");
    await tell(group, "end");
    await room.until("message", expected.length + 1);
    assert.deepEqual(told(room), [...expected, "end"]);
    room.room.close();
  }
});

test("persist: storage that fails is no storage", async () => {
  globalThis.sessionStorage = {
    getItem: () => "[",
    setItem: () => {
      throw new Error("full");
    },
    removeItem: () => {
      throw new Error("closed");
    },
  };
  const room = watch("/echo/", { persist: true });
  await room.until("open");
  room.room.close();
  const closing = watch("/closing/4000/x/", { persist: true });
  await closing.until("close");
});
