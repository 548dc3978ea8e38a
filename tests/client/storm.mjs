// Boards of tests/project/streamed.py, and a storm: pages that are hidden and left, and lines that are cut, under load.

import assert from "node:assert/strict";

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** A random number below another one. */
const random = (below) => Math.floor(Math.random() * below);

/** The lines of a board: changed and rendered by the server. */
export class Board {
  constructor(tools, name) {
    this.tools = tools;
    this.name = name;
    this.count = 0;
  }

  path(kind, number = 1, query = "") {
    return `/streamed/${kind}/${this.name}/${number}/${query}`;
  }

  /** Do some of: add, change, remove. The line is chosen by the length of the text. */
  async write(...actions) {
    const body = JSON.stringify(actions.map((action) => [action, `${++this.count}${"x".repeat(random(9))}`]));
    const response = await fetch(`${this.tools.direct}/streamed/write/${this.name}/`, { method: "POST", body });
    assert.equal(response.status, 200);
  }

  /** What the list of a fresh page contains. */
  async fresh() {
    return (await fetch(`${this.tools.direct}/streamed/lines/${this.name}/`)).text();
  }

  /** How many sockets are open, and how many follow each group. */
  async sockets() {
    return (await fetch(`${this.tools.direct}/streamed/sockets/${this.name}/`)).json();
  }

  /** Wait until a page shows what a fresh one does. */
  async equals(page) {
    const fresh = await this.fresh();
    let shown;
    try {
      await this.tools.until("the page", async () => {
        shown = await page.evaluate(SHOWN).catch(String);
        return shown === fresh;
      });
    } catch {
      // A diff tells more.
    }
    assert.equal(shown, fresh);
  }

  /** Write at random until the returned function is called. */
  speak(milliseconds = 30) {
    let isStopped = false;
    const spoken = (async () => {
      while (!isStopped) {
        await this.write(["add", "add", "change", "remove"][random(4)]);
        await pause(milliseconds);
      }
    })();
    // If the case fails, the server may stop first.
    spoken.catch(() => undefined);
    return () => {
      isStopped = true;
      return spoken;
    };
  }
}

/** Without Turbo, the element itself shows the newest HTML. */
const SHOWN = 'document.querySelector("websocket-stream")?.innerHTML || document.querySelector("#lines").innerHTML';

/** Which page it is. */
const NUMBER = 'document.querySelector("#number").textContent';

/**
 * Hide and show pages, leave them and come back, and cut their lines, while a board changes; have the server
 * reload in the middle.
 *
 * @param pages tabs, which show the board.
 * @param board the board; `speak` and `equals` are called.
 * @param options `cycles`; `pid` of the master of gunicorn; `move`, which leads a page to another one with the
 *   board, such as a click on a link.
 */
export async function storm(tools, pages, board, { cycles, pid, move }) {
  const stop = board.speak();
  const faults = {
    hide: async (page) => {
      const other = pages[(pages.indexOf(page) + 1) % pages.length];
      await other.bringToFront();
      await tools.shows(page, "document.hidden");
      await pause(random(200));
      await page.bringToFront();
      await tools.shows(page, "!document.hidden");
    },
    cut: () => tools.proxy.cut(),
    freeze: async () => {
      await tools.proxy.freeze();
      await pause(random(300));
      await tools.proxy.resume();
    },
    move: (page) => move(page),
    // Puppeteer would wait for events, which do not come if a page is kept.
    reload: async (page) => {
      await page.evaluate("window.isOld = true; void setTimeout(() => location.reload())");
      await tools.shows(page, 'document.readyState === "complete" && !window.isOld');
    },
    back: async (page) => {
      const number = await page.evaluate(NUMBER);
      await move(page);
      await pause(random(300));
      await page.evaluate("void setTimeout(() => history.back())");
      await tools.shows(page, `${NUMBER} === "${number}"`);
    },
  };
  const names = Object.keys(faults);
  const log = [];
  try {
    for (let cycle = 0; cycle < cycles; cycle++) {
      if (cycle === Math.floor(cycles / 2)) {
        log.push("SIGHUP");
        process.kill(pid, "SIGHUP");
      }
      const page = pages[random(pages.length)];
      const name = names[cycle < names.length ? cycle : random(names.length)];
      log.push(`${name} ${pages.indexOf(page)}`);
      await faults[name](page);
      await pause(random(200));
    }
    await stop();
    for (const page of pages) await board.equals(page);
  } catch (error) {
    error.message += `\nafter: ${log.join(", ")}`;
    throw error;
  }
}
