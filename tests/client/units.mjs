// The parts without a connection, from the source.

import assert from "node:assert/strict";
import { test } from "node:test";
import { delay, entry, isFinal, parse, positionsIn } from "../../client/src/protocol.ts";
import { Gaps } from "../../client/src/gaps.ts";
import { Clock } from "./clock.mjs";

/** A seeded source of random numbers (mulberry32). */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Pearson's sum for numbers from 0 to a limit, in 20 equal parts. */
function chiSquared(numbers, limit) {
  const parts = new Array(20).fill(0);
  for (const each of numbers) parts[Math.floor((each / limit) * 20)]++;
  const expected = numbers.length / 20;
  return parts.reduce((sum, each) => sum + (each - expected) ** 2 / expected, 0);
}

// 19 degrees of freedom, p = 0.001.
const CRITICAL = 43.82;

/** Run with seeded random numbers. */
function withSeed(seed, callback) {
  const { random } = Math;
  Math.random = seeded(seed);
  try {
    return callback();
  } finally {
    Math.random = random;
  }
}

test("delays are even over the whole window, at each number of failures", () => {
  for (const [failures, limit] of [[0, 500], [1, 1000], [5, 16_000], [6, 30_000], [1000, 30_000]]) {
    const delays = withSeed(failures + 1, () => Array.from({ length: 1000 }, () => delay(failures)));
    assert.ok(chiSquared(delays, limit) < CRITICAL, failures);
    // The measure notices the usual "half is fixed, half is random".
    assert.ok(chiSquared(delays.map((each) => limit / 2 + each / 2), limit) > CRITICAL);
  }
});

test("gaps are told evenly over five seconds", async () => {
  const clock = new Clock();
  const times = [];
  withSeed(7, () => {
    for (let index = 0; index < 1000; index++) new Gaps(() => times.push(clock.time - 1_000_000)).add({ room: "x" });
  });
  await clock.advance(5000);
  clock.stop();
  assert.equal(times.length, 1000);
  assert.ok(chiSquared(times, 5000) < CRITICAL);
});

test("gaps of a group are 30 seconds apart, merged and complete", async () => {
  const clock = new Clock();
  const told = [];
  const gaps = new Gaps((groups) => told.push([clock.time - 1_000_000, groups]));
  gaps.add({ a: "1", b: "1" });
  await clock.advance(5000);
  assert.deepEqual(told.map(([, groups]) => groups), [{ a: "1", b: "1" }]);
  const [[first]] = told;
  // Every second a gap of "a", and one of another group.
  for (let second = 2; second < 100; second++) {
    gaps.add({ a: String(second) });
    if (second === 10) gaps.add({ c: "1" });
    await clock.advance(1000);
  }
  await clock.advance(100_000);
  const ofA = told.filter(([, groups]) => "a" in groups);
  assert.deepEqual(ofA.at(-1)[1], { a: "99" });
  const times = ofA.map(([time]) => time);
  // Sums of fractions are not exact.
  for (let index = 1; index < times.length; index++) assert.ok(times[index] - times[index - 1] > 29_999.9);
  assert.ok(times.length >= 4);
  assert.ok(times[1] - first < 30_000.1);
  assert.equal(told.filter(([, groups]) => "c" in groups).length, 1);
  // Nothing is left.
  assert.equal(clock.waiting, 0);
  // What waits is told at the end, or when the page returns.
  gaps.add({ a: "100" });
  gaps._pause();
  assert.equal(clock.waiting, 0);
  await clock.advance(100_000);
  gaps._resume();
  await clock.advance(0);
  assert.deepEqual(told.at(-1)[1], { a: "100" });
  const odd = '{"a":"101","b":"2","__proto__":"3"}';
  gaps.add(JSON.parse(odd));
  gaps._flush();
  assert.equal(JSON.stringify(told.at(-1)[1]), odd);
  assert.equal(clock.waiting, 0);
  clock.stop();
});

test("codes", () => {
  const final = [1000, 1002, 1003, 1007, 1008, 1009, 4000, 4301, 4401, 4403, 4404, 4900, 4999];
  const others = [1001, 1005, 1006, 1010, 1011, 1012, 1013, 1014, 1015, 3000, 3999];
  assert.deepEqual(final.filter((code) => !isFinal(code)), []);
  assert.deepEqual(others.filter(isFinal), []);
});

const decode = (text) => JSON.parse(Buffer.from(text.slice("wsmux.at.".length), "base64url").toString());

test("the entry of a returning client", () => {
  assert.equal(entry(undefined, undefined, new Map()), undefined);
  assert.deepEqual(decode(entry("id~sig", undefined, new Map())), { c: "id~sig", g: {} });
  assert.deepEqual(decode(entry(undefined, "me", new Map([["räum ☃ 😀", "a.b-1"]]))), {
    u: "me",
    g: { "räum ☃ 😀": "a.b-1" },
  });
  for (const text of ["~~~???>>>", "ü".repeat(50), "\ud800", ""]) {
    const written = entry("c", "u", new Map([[text, "a.b-1"]]));
    assert.match(written, /^wsmux\.at\.[\w-]+$/);
    assert.deepEqual(Object.keys(decode(written).g), [text]);
  }
  const many = new Map(Array.from({ length: 100 }, (_, index) => [`room-${index}`, "a.b-1"]));
  assert.deepEqual(Object.keys(decode(entry("c", "u", many)).g), [...many.keys()].slice(36));
  const long = new Map(Array.from({ length: 64 }, (_, index) => [`${index}`.padStart(190, "x"), "a.b-1"]));
  const written = entry("c", "u", long);
  assert.ok(written.length <= 4096 + 9);
  const kept = Object.keys(decode(written).g);
  assert.ok(kept.length >= 10);
  assert.deepEqual(kept, [...long.keys()].slice(-kept.length));
  assert.deepEqual(decode(entry("c", "u", new Map([["x".repeat(5000), "a.b-1"]]))), { c: "c", u: "u", g: {} });
});

test("positions that a page brings", () => {
  const found = (at) => Object.fromEntries(positionsIn(at));
  assert.deepEqual(found(undefined), {});
  assert.deepEqual(found(""), {});
  assert.deepEqual(found("a.b-1"), { "": "a.b-1" });
  assert.deepEqual(found("room@a.b-1"), { room: "a.b-1" });
  assert.deepEqual(found("%40user@a.b-1,r%2C%20%C3%BC@a.b-2"), { "@user": "a.b-1", "r, ü": "a.b-2" });
  assert.deepEqual(found({ room: "a.b-1" }), { room: "a.b-1" });
});

test("frames", () => {
  const binary = (head, ...bytes) => {
    const text = new TextEncoder().encode(head);
    return Uint8Array.from([text.length >> 8, text.length & 255, ...text, ...bytes]).buffer;
  };
  const unpack = (message) => {
    const { binary: data, ...rest } = parse(message);
    return [rest, [...new Uint8Array(data)]];
  };
  assert.deepEqual(unpack(binary("", 1, 2)), [{}, [1, 2]]);
  assert.deepEqual(unpack(binary("a.b-1 my room", 0, 255)), [{ at: "a.b-1", in: "my room" }, [0, 255]]);
  assert.deepEqual(unpack(binary(" räum")), [{ in: "räum" }, []]);
  assert.deepEqual(unpack(binary(` ${"x".repeat(300)}`, 7)), [{ in: "x".repeat(300) }, [7]]);
  assert.deepEqual(parse("{}"), {});
  for (const bad of ["", "{", new ArrayBuffer(0), new ArrayBuffer(1)]) assert.throws(() => parse(bad));
});
