// Requests: replies, errors, timeouts, and the queue.

import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "./clock.mjs";
import { RequestError, proxy } from "./support.mjs";
import { clock, watch } from "./watching.mjs";

let number = Date.now();

const ANSWERING = "/asked/answering/";

const fails = (promise, code) => assert.rejects(promise, (error) => error instanceof RequestError && error.code === code);

/** Return a promise that never rejects, and its state. */
function observe(promise) {
  const observed = { promise, state: "pending" };
  promise.then(
    () => (observed.state = "fulfilled"),
    (error) => (observed.state = error.code ?? "rejected"),
  );
  return observed;
}

test("each request gets its own reply", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  const replies = await Promise.all([1, 2, 3].map((n) => room.room.request("double", { n })));
  assert.deepEqual(replies, [2, 4, 6]);
  assert.deepEqual([room.all("message"), room.all("error")], [[], []]);
});

test("errors of the server reject with their details", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  await assert.rejects(room.room.request("wrong"), {
    name: "RequestError",
    code: "errors",
    errors: { text: [{ message: "Too long.", code: "max_length" }] },
  });
  // Without a reference they are an event.
  room.room.send({ type: "wrong" });
  assert.deepEqual(await room.until("error"), { text: [{ message: "Too long.", code: "max_length" }] });
  // With a handler for it, they are an answer.
  room.room.on("answer", (answer) => room.seen.push(["answer", answer]));
  room.room.send({ type: "wrong" });
  const errors = { text: [{ message: "Too long.", code: "max_length" }] };
  assert.deepEqual(await room.until("answer"), { type: "wrong", errors });
  room.room.send({ type: "double", n: 2, ref: "mine" });
  assert.deepEqual(await room.until("answer", 2), { type: "double", ref: "mine", reply: 4 });
  assert.equal(room.all("error").length, 1);
});

test("a request that comes too early tells how long to wait", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  assert.equal(await room.room.request("rare"), "handled");
  await assert.rejects(room.room.request("rare"), ({ code, errors, retryAfter }) => {
    assert.deepEqual([code, errors.__all__[0].code], ["errors", "rate_limited"]);
    assert.ok(retryAfter > 3000 && retryAfter <= 3600);
    return true;
  });
  room.room.on("answer", (answer) => room.seen.push(["answer", answer]));
  room.room.send({ type: "rare" });
  const { type, retry_after } = await room.until("answer");
  assert.equal(type, "rare");
  assert.ok(retry_after > 3000 && retry_after <= 3600);
});

test("without a connection a request fails at once, unless it is queued", async () => {
  const room = watch(ANSWERING);
  await fails(room.room.request("double", { n: 1 }), "disconnected");
  const queued = room.room.request("double", { n: 1 }, { queue: true });
  assert.equal(await queued, 2);
});

test("a lost connection fails requests, and sends queued ones again", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  await proxy.freeze();
  const [plain, queued] = [{}, { queue: true }].map((options) =>
    observe(room.room.request("count", { number: ++number }, options)),
  );
  await proxy.cut();
  await until(() => plain.state === "disconnected");
  assert.equal(queued.state, "pending");
  await proxy.resume();
  await clock.advance(9000);
  assert.equal(await queued.promise, 1);
});

test("a request ends after its time", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  await proxy.freeze();
  const [ten, two, never] = [undefined, { timeout: 2000 }, { timeout: Infinity }].map((options) =>
    observe(room.room.request("double", { n: 1 }, options)),
  );
  await clock.advance(1999);
  assert.equal(two.state, "pending");
  await clock.advance(1);
  assert.equal(two.state, "timeout");
  await clock.advance(7999);
  assert.equal(ten.state, "pending");
  await clock.advance(1);
  assert.deepEqual([ten.state, never.state], ["timeout", "pending"]);
  await proxy.resume();
  assert.equal(await never.promise, 2);
  // The late replies are no messages.
  assert.deepEqual(room.all("message"), []);
});

test("a request that waits in the queue ends after its time", async () => {
  await proxy.refuse();
  const room = watch(ANSWERING);
  const waiting = observe(room.room.request("double", { n: 1 }, { queue: true }));
  await clock.advance(10_000);
  assert.equal(waiting.state, "timeout");
});

test("a signal ends a request", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  const controller = new AbortController();
  const silent = watch("/silent/");
  await silent.until("open");
  const request = silent.room.request("x", {}, { signal: controller.signal });
  controller.abort();
  await assert.rejects(request, { name: "AbortError" });
  await assert.rejects(room.room.request("double", { n: 1 }, { signal: controller.signal }), { name: "AbortError" });
  await assert.rejects(room.room.request("x", {}, { signal: AbortSignal.abort(new Error("why")) }), { message: "why" });
  // What has been answered is not ended.
  const late = new AbortController();
  assert.equal(await room.room.request("double", { n: 1 }, { signal: late.signal }), 2);
  late.abort();
});

test("the queue is bounded, and says so", async () => {
  await proxy.refuse();
  const room = watch(ANSWERING);
  const request = (n, text = "") => room.room.request("double", { n, text }, { queue: true, timeout: Infinity });
  const queued = Array.from({ length: 100 }, (_, n) => request(n));
  await fails(request(100), "full");
  assert.equal(room.room.send({ type: "x" }), false);
  await proxy.resume();
  await until(async () => (await clock.advance(1000)) ?? room.room.state === "open");
  assert.deepEqual(await Promise.all(queued), Array.from({ length: 100 }, (_, n) => 2 * n));
  await proxy.refuse();
  await proxy.cut();
  await room.state("waiting");
  const large = request(1, "x".repeat(200 * 1024));
  await fails(request(2, "x".repeat(57 * 1024)), "full");
  const small = request(3, "x".repeat(50 * 1024));
  await proxy.resume();
  await until(async () => (await clock.advance(1000)) ?? room.room.state === "open");
  assert.deepEqual([await large, await small], [2, 6]);
});

test("close(), or a final code, rejects everything", async () => {
  for (const isFinal of [false, true]) {
    const room = watch(isFinal ? "/asked/ending/" : "/silent/");
    await room.until("open");
    const [plain, queued] = [{}, { queue: true }].map((options) => observe(room.room.request("x", {}, options)));
    if (!isFinal) room.room.close();
    await until(() => plain.state === "closed" && queued.state === "closed");
    await fails(room.room.request("double", { n: 1 }, { queue: true }), "closed");
  }
});

test("what cannot be sent rejects", async () => {
  const room = watch(ANSWERING);
  await room.until("open");
  const circle = {};
  circle.self = circle;
  await assert.rejects(room.room.request("double", { circle }), TypeError);
  assert.throws(() => room.room.send({ type: "x", circle }), TypeError);
});
