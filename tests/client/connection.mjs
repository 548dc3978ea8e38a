// One connection: it opens, closes, waits and returns.

import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep, until } from "./clock.mjs";
import { connect, proxy } from "./support.mjs";
import { clock, watch } from "./watching.mjs";

/** Let the next attempt begin, and wait for the welcome. */
async function back(watched) {
  const count = watched.all("open").length;
  await clock.advance(30_000);
  await watched.until("open", count + 1);
}

test("messages of each kind arrive", async () => {
  const echo = watch("/echo/");
  assert.equal(echo.room.state, "connecting");
  assert.equal(echo.room.send("too early"), false);
  await echo.until("open");
  assert.equal(echo.room.state, "open");
  assert.match(echo.room.id, /^[\w-]+$/);
  assert.equal(echo.room.send("text"), true);
  assert.equal(echo.room.send({ type: "said", n: 1 }), true);
  assert.equal(echo.room.send(new Uint8Array([0, 255])), true);
  assert.equal(echo.room.send(new Blob(["blob"])), true);
  await echo.until("message", 4);
  const [text, json, bytes, blob] = echo.all("message");
  assert.equal(text, "text");
  assert.equal(json, '{"type":"said","n":1}'); // sent as text: not parsed
  assert.deepEqual(new Uint8Array(bytes), new Uint8Array([0, 255]));
  assert.equal(new TextDecoder().decode(blob), "blob");
});

test("handlers are called by type, and may be removed", async () => {
  const joining = watch("/asked/joining/?group=c.types");
  const said = [];
  const off = joining.room.on("said", (message, info) => said.push([message.to, info.in]));
  await joining.until("open");
  joining.room.send("c.types");
  await joining.until("message");
  assert.deepEqual(said, [["c.types", "c.types"]]);
  off();
  joining.room.send("c.types");
  await joining.until("message", 2);
  assert.equal(said.length, 1);
});

test("a message whose type is the name of an event is only a message", async () => {
  const answering = watch("/asked/answering/");
  await answering.until("open");
  const before = answering.seen.length;
  for (const type of ["close", "state", "message"]) {
    assert.equal(await answering.room.request("tell", { told: { type } }), null);
  }
  assert.deepEqual(
    answering.seen.slice(before).map(([name, value]) => [name, value.type]),
    [["message", "close"], ["message", "state"], ["message", "message"]],
  );
});

test("an exception of a handler is reported and changes nothing", async () => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  const echo = watch("/echo/");
  for (const name of ["open", "message", "state", "close"]) {
    echo.room.on(name, () => {
      throw new Error(name);
    });
  }
  await echo.until("open");
  echo.room.send("one");
  echo.room.send("two");
  await echo.until("message", 2);
  assert.deepEqual(reported, ["state", "open", "message", "message"]);
  await proxy.cut();
  await echo.state("waiting");
  await back(echo);
  delete globalThis.reportError;
});

for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 4000, 4403]) {
  test(`${code} is final`, async () => {
    const closing = watch(`/closing/${code}/why/`);
    assert.deepEqual(await closing.until("close"), { code, reason: "why" });
    assert.equal(closing.room.state, "closed");
    assert.equal(clock.waiting, 0);
    await assert.rejects(closing.room.request("x"), { code: "closed" });
  });
}

for (const code of [1001, 1011, 1012, 1013, 1014, 3000]) {
  test(`after ${code} it returns`, async () => {
    const closing = watch(`/closing/${code}/why/`);
    await closing.state("waiting");
    const { attempts, after, code: told, reason } = closing.all("state").at(-1);
    assert.deepEqual([attempts, told, reason], [1, code, "why"]);
    // Before 1012 and 1013, the server says when.
    assert.ok(after >= 0 && after < ([1012, 1013].includes(code) ? 30 : 0.5), after);
    await back(closing);
  });
}

for (const [path, code] of [
  ["/missing/", 4404],
  ["/denied/", 4403],
  ["/status/418/", 4418],
]) {
  test(`a refusal with ${code} is final`, async () => {
    const refused = watch(path);
    assert.equal((await refused.until("close")).code, code);
    assert.deepEqual(refused.all("open"), []);
  });
}

test("a page that must sign in is told so after a second attempt", async () => {
  const { handshakes } = await proxy.state();
  const refused = watch("/private/");
  await refused.state("waiting");
  await clock.advance(5000);
  assert.equal((await refused.until("close")).code, 4401);
  assert.equal((await proxy.state()).handshakes, handshakes + 2);
});

test("auth() is called before each attempt, and told of a refusal", async () => {
  const calls = [];
  const tokens = ["bad", "good/=1", "good 2"];
  const whoami = watch("/asked/whoami/", {
    auth: async (refused) => {
      calls.push(refused);
      return tokens[calls.length - 1];
    },
  });
  await whoami.state("waiting");
  assert.equal(whoami.all("state").at(-1).code, 4401);
  await clock.advance(5000);
  assert.equal(await whoami.until("message"), "good/=1");
  await proxy.cut();
  await whoami.state("waiting");
  await clock.advance(5000);
  assert.equal(await whoami.until("message", 2), "good 2");
  // A welcome came in between, so this is the first refusal in a row.
  tokens.push("bad", "bad");
  whoami.room.send("close me");
  await until(() => whoami.all("state").at(-1).code === 4401);
  await clock.advance(5000);
  assert.equal((await whoami.until("close")).code, 4401);
  assert.deepEqual(calls, [false, true, false, true]);
});

test("an exception of auth() is an attempt that failed", async () => {
  const answers = [Promise.reject(new Error("no ticket")), "good"];
  answers[0].catch(() => undefined);
  const whoami = watch("/asked/whoami/", { auth: () => answers.shift() });
  assert.equal((await whoami.until("error")).message, "no ticket");
  assert.equal(whoami.room.state, "waiting");
  await clock.advance(5000);
  assert.equal(await whoami.until("message"), "good");
});

test("auth() that never answers is an attempt that failed", async () => {
  const answers = [new Promise(() => {}), "good"];
  const whoami = watch("/asked/whoami/", { auth: () => answers.shift() });
  await clock.advance(29_990);
  assert.equal(whoami.room.state, "connecting");
  await clock.advance(20);
  assert.equal(whoami.all("state")[0].reason, "no welcome");
  await clock.advance(5000);
  assert.equal(await whoami.until("message"), "good");
});

test("auth() that answers after close() opens nothing", async () => {
  let answer;
  const { handshakes } = await proxy.state();
  const whoami = watch("/asked/whoami/", { auth: () => new Promise((resolve) => (answer = resolve)) });
  whoami.room.close();
  answer("good");
  await sleep(50);
  assert.equal((await proxy.state()).handshakes, handshakes);
  assert.equal(whoami.room.state, "closed");
});

test("the page of another user is told 4401 and nothing else", async () => {
  const echo = watch("/echo/", { identity: "somebody" });
  await echo.state("waiting");
  await clock.advance(5000);
  assert.equal((await echo.until("close")).code, 4401);
  assert.deepEqual([echo.all("open"), echo.all("message")], [[], []]);
  const same = watch("/echo/", { identity: "anonymous" });
  await same.until("open");
});

test("silence is found after 2.5 heartbeats, and not before", async () => {
  const echo = watch("/echo/"); // the heartbeat is 20 s
  await echo.until("open");
  await clock.advance(49_000);
  echo.room.send("x");
  await echo.until("message");
  await proxy.freeze();
  await clock.advance(49_990);
  assert.equal(echo.room.state, "open");
  await clock.advance(20);
  // It may have returned already.
  assert.equal(echo.all("state")[1].reason, "silence");
  await proxy.resume();
  await until(async () => (await clock.advance(100)) ?? echo.all("open").length === 2);
});

test("a message that waited while the program was busy is a sign of life", async () => {
  const echo = watch("/echo/");
  await echo.until("open");
  await clock.advance(48_000); // the first timer has run
  echo.room.send("x");
  await echo.until("message");
  await clock.advance(49_000);
  assert.equal(echo.room.state, "open");
});

test("a server that does not send the welcome is left", async () => {
  await proxy.freeze();
  const echo = watch("/echo/");
  await clock.advance(29_990);
  assert.equal(echo.room.state, "connecting");
  await clock.advance(20);
  assert.equal(echo.all("state")[0].reason, "no welcome");
  await proxy.resume();
  await until(async () => (await clock.advance(100)) ?? echo.all("open").length === 1);
});

test("attempts go on, less and less often, and begin again after five open seconds", async () => {
  await proxy.refuse();
  const echo = watch("/echo/");
  const limits = [0.5, 1, 2, 4, 8, 16, 30, 30, 30];
  for (const [index, limit] of limits.entries()) {
    await until(() => echo.all("state").filter(({ state }) => state === "waiting").length === index + 1);
    const { attempts, after } = echo.all("state").at(-1);
    assert.equal(attempts, index + 1);
    assert.ok(after >= 0 && after <= limit, `${after} > ${limit}`);
    await clock.advance(after * 1000);
  }
  await proxy.resume();
  await until(async () => (await clock.advance(1000)) ?? echo.room.state === "open");
  await proxy.cut();
  await echo.state("waiting");
  assert.ok(echo.all("state").at(-1).attempts > 9);
  await back(echo);
  await clock.advance(5001);
  await proxy.cut();
  await echo.state("waiting");
  assert.equal(echo.all("state").at(-1).attempts, 1);
});

test("a server that is full says when to return", async () => {
  const limited = watch("/asked/limited/");
  await limited.state("waiting");
  const { code, after } = limited.all("state").at(-1);
  assert.deepEqual([code, after], [1013, 7]);
  await clock.advance(6990);
  assert.equal(limited.room.state, "waiting");
  await clock.advance(20);
  assert.equal(limited.room.state, "connecting");
});

test("a socket that another one has replaced returns with a new id", async () => {
  const storage = new Map();
  globalThis.sessionStorage = {
    getItem: (key) => storage.get(key) ?? null,
    setItem: (key, value) => storage.set(key, value),
    removeItem: (key) => storage.delete(key),
  };
  const original = watch("/echo/", { persist: true });
  await original.until("open");
  const id = original.room.id;
  original.room.close();
  assert.equal(storage.size, 1);
  // Two tabs with one storage, as "Duplicate tab" makes them.
  const one = watch("/echo/", { persist: true });
  await one.until("open");
  assert.equal(one.room.id, id);
  const other = watch("/echo/", { persist: true });
  await other.until("open");
  assert.equal(other.room.id, id);
  await one.state("waiting");
  assert.equal(one.all("state").at(-1).code, 4900);
  await clock.advance(5000);
  await one.until("open", 2);
  assert.notEqual(one.room.id, id);
  assert.equal(other.room.state, "open");
  delete globalThis.sessionStorage;
});

test("a view that breaks is named on the console", async () => {
  const lines = [];
  const { error } = console;
  console.error = (...values) => lines.push(values.join(" "));
  const crash = watch("/crash/");
  await crash.until("open");
  crash.room.send("x");
  await crash.state("waiting");
  console.error = error;
  assert.equal(lines.length, 1);
  assert.match(lines[0], /ws:.*\/crash\/ .*1011.*ValueError: it broke/);
  assert.equal(crash.all("state").at(-1).code, 1011);
});

test("close() ends it for good", async () => {
  const echo = watch("/echo/");
  await echo.until("open");
  echo.room.close();
  assert.equal(echo.room.state, "closed");
  assert.equal(echo.room.send("x"), false);
  await clock.advance(100_000);
  assert.equal(echo.all("open").length, 1);
  assert.deepEqual(echo.all("close"), []); // it was the page's own wish
  await until(async () => (await proxy.state()).open === 0);
});

test("close() in any handler ends it for good", async () => {
  for (const name of ["state", "open", "message"]) {
    const echo = watch("/events/early/x/");
    echo.room.on(name, () => echo.room.close());
    await echo.state("closed");
    await clock.advance(100_000);
    assert.equal(echo.room.state, "closed");
    assert.equal(clock.waiting, 0);
  }
});

test("a URL that is none is an error at once", () => {
  assert.throws(() => connect("/relative/"), TypeError);
});

test("a machine without a network is offline, and tries on", async () => {
  const { navigator } = globalThis;
  Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true, writable: true });
  await proxy.refuse();
  const echo = watch("/echo/");
  await echo.state("offline");
  await proxy.resume();
  await until(async () => (await clock.advance(1000)) ?? echo.room.state === "open");
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true, writable: true });
});

test("the server's own messages that break the rules change nothing", async () => {
  const strange = watch("/asked/strange/");
  await strange.until("open");
  strange.room.send("x");
  await strange.until("message", 2);
  assert.deepEqual(strange.all("message"), ["before", "after"]);
  assert.equal(strange.all("error").length, 3);
});
