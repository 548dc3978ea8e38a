// Requests over a line that is cut at random: every promise is settled, and none is lost.

import assert from "node:assert/strict";
import { test } from "node:test";
import { hurry, sleep } from "./clock.mjs";
import { Watched, get, proxy } from "./support.mjs";

const REQUESTS = Number(process.env.REQUESTS);
const AT_ONCE = 50;

test(`${REQUESTS} requests over a line that is cut at random`, async () => {
  // The waits of the client, at most 30 s, would take longer than everything else.
  hurry(100);
  await get("/asked/effects/"); // forget those of other tests
  const room = new Watched("/asked/once/");
  let [number, cuts, isDone] = [0, 0, false];
  const replies = [];
  const ask = async () => {
    while (number < REQUESTS) {
      const own = number++;
      replies[own] = await room.room.request("count", { number: own }, { queue: true, timeout: Infinity });
    }
  };
  const cut = async () => {
    while (!isDone) {
      await sleep(Math.random() * 40);
      await proxy.cut();
      cuts++;
    }
  };
  const cutting = cut();
  await Promise.all(Array.from({ length: AT_ONCE }, ask));
  isDone = true;
  await cutting;
  room.room.close();
  assert.deepEqual(replies, Array.from({ length: REQUESTS }, () => 1));
  // Each was done once.
  assert.deepEqual(JSON.parse(await get("/asked/effects/")), Array.from({ length: REQUESTS }, (_, n) => [n, 1]));
  assert.ok(room.all("open").length > 1, "the line was never cut");
  console.log(`${REQUESTS} requests, ${cuts} cuts, ${room.all("open").length} connections`);
});
