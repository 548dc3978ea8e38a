// The connections of one test, with a clock that the test moves. Importing this module sets up each
// test: its connections are closed at the end, and must leave no timers.

import assert from "node:assert/strict";
import { afterEach, beforeEach } from "node:test";
import { Clock } from "./clock.mjs";
import { Watched, proxy } from "./support.mjs";

/** The clock of this test. */
export let clock;

let all;

beforeEach(() => {
  clock = new Clock();
  all = [];
});

afterEach(async () => {
  for (const each of all) each.room.close();
  clock.stop();
  await proxy.resume();
  assert.equal(clock.waiting, 0, "a closed connection has timers");
});

/** Open a connection that is closed at the end of the test. */
export function watch(path, options) {
  const watched = new Watched(path, options);
  all.push(watched);
  return watched;
}
