// Cases of test_shared.py: pages that share one socket.

import assert from "node:assert/strict";

/** Send numbers to a group, one every few milliseconds, until stopped; return how many were sent. */
function speak(origin, group, milliseconds = 40) {
  let isStopped = false;
  const spoken = (async () => {
    let count = 0;
    while (!isStopped) {
      await say(origin, group, String(++count));
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
    }
    return count;
  })();
  return () => {
    isStopped = true;
    return spoken;
  };
}

/** Send texts to a group. */
async function say(origin, group, ...texts) {
  const body = JSON.stringify(texts.map((text) => ({ group, text })));
  const response = await fetch(`${origin}/kept/send/`, { method: "POST", body });
  assert.equal((await response.json()).sent.length, texts.length);
}

/** Return what a page knows: the messages that it was rendered with and those that came; no gap. */
async function known(page) {
  const { all, gaps } = await page.evaluate(() => ({ all: initial.concat(got), gaps }));
  assert.deepEqual(gaps, [], "the page was told a gap");
  return all.map(Number);
}

/** Assert that a page has each number once and in order; return how many. */
async function assertComplete(page) {
  const numbers = await known(page);
  assert.deepEqual(numbers, Array.from(numbers, (_, index) => index + 1));
  return numbers.length;
}

/** Follow links over five pages, and reload, while messages flow. */
export async function visit(tools, { group, query }) {
  const { origin, proxy } = tools;
  const before = (await proxy.state()).handshakes;
  const stop = speak(origin, group);
  const page = await tools.tab(`/shared/${group}/1/${query}`);
  for (let number = 2; number <= 5; number++) {
    await tools.shows(page, "got.length > 5");
    await assertComplete(page);
    await Promise.all([page.waitForNavigation(), page.click("#next")]);
    assert.equal(await page.evaluate("number"), number);
  }
  await tools.shows(page, "got.length > 5");
  await page.reload();
  await tools.shows(page, "got.length > 5");
  const count = await stop();
  await tools.shows(page, `initial.length + got.length >= ${count}`);
  assert.equal(await assertComplete(page), count);
  const handshakes = (await proxy.state()).handshakes - before;
  // Firefox ends a shared worker with its last page.
  const most = tools.browserName === "firefox" ? 6 : 1;
  assert.ok(handshakes <= most, `${handshakes} handshakes`);
  return handshakes;
}
