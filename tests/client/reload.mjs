// Many clients while the server reloads: all of them return, when the server has told them to.

import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "./clock.mjs";
import { Watched } from "./support.mjs";

const CLIENTS = 500;

test(`${CLIENTS} clients return after a reload`, async () => {
  const rooms = [];
  for (let index = 0; index < CLIENTS; index++) {
    const room = new Watched("/echo/");
    rooms.push(room);
    await room.until("open");
  }
  process.kill(Number(process.env.PID), "SIGHUP");
  await until(() => rooms.every((room) => room.all("open").length === 2 && room.room.state === "open"));
  const closes = rooms.flatMap((room) => room.all("state").filter(({ state }) => state === "waiting"));
  assert.deepEqual([...new Set(closes.map(({ code }) => code))], [1012]);
  assert.equal(closes.length, CLIENTS, "a client was refused");
  // They were told different times, to a hundredth of a second.
  const times = closes.map(({ after }) => after).sort((one, other) => one - other);
  assert.ok(times[0] >= 0.5);
  assert.ok(new Set(times).size > 50, `only ${new Set(times).size} different times`);
  console.log(`told to return after ${times[0]} to ${times.at(-1)} s`);
  for (const { room } of rooms) room.close();
});
