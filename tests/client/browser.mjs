// The program behind tests/client/browsers.py: starts a browser, and runs cases that it reads by line.
// Arguments: chromium | firefox, the program of the browser, the module with the cases, a directory.

import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Proxy } from "./proxy.mjs";

const [name, program, module, profile] = process.argv.slice(2);
const { launch } = createRequire(new URL("../../client/package.json", import.meta.url))("puppeteer-core");
const cases = await import(pathToFileURL(module));

/** The longest that a case waits for something, in milliseconds. */
const TIMEOUT = 60_000;

// For tests that run as root, and without a network. Puppeteer's own arguments change what is tested:
// timers and processes of pages in the background.
const CHROMIUM =
  "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking " +
  `--disable-component-update --disable-sync --user-data-dir=${profile}`;

const browser = await launch({
  executablePath: program,
  protocol: "webDriverBiDi",
  protocolTimeout: 2 * TIMEOUT,
  ...(name === "firefox"
    ? { browser: "firefox", userDataDir: profile }
    : { browser: "chrome", ignoreDefaultArgs: true, args: CHROMIUM.split(" ") }),
});

/** Return the ids of the processes above one. */
function parents(pid) {
  const found = [];
  while (pid > 1) {
    // The name of the program is in parentheses, and may contain anything.
    pid = Number(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ")[1]);
    found.push(pid);
  }
  return found;
}

/** What a case gets: pages with cookies and storage of their own, and the proxy in front of the site. */
class Tools {
  browserName = name;
  browser = browser;
  /** What pages have written to their consoles. */
  lines = [];

  constructor(context, { origin, direct, control }) {
    this.context = context;
    this.origin = origin;
    this.direct = direct;
    this.proxy = control && new Proxy(control);
  }

  /** Open a tab. */
  async tab(path) {
    const page = await this.context.newPage();
    page.on("console", (message) => this.lines.push(message.text()));
    page.on("pageerror", (error) => this.lines.push(String(error)));
    if (path !== undefined) await page.goto(this.origin + path);
    return page;
  }

  /** Wait until a function returns a true value, and return that. */
  async until(what, condition) {
    const deadline = Date.now() + TIMEOUT;
    let value;
    while (!(value = await condition())) {
      if (Date.now() > deadline) throw new Error(`${what}: not within ${TIMEOUT / 1000} s`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return value;
  }

  /** The ids of the browser's processes whose command line matches. */
  children(pattern) {
    const parent = browser.process().pid;
    return readdirSync("/proc").filter((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
        return parents(pid).includes(parent) && pattern.test(command);
      } catch {
        return false; // not a process, or not any more
      }
    });
  }

  /** Wait until an expression in a page is true; it may raise meanwhile, as pages come and go. */
  shows(page, expression) {
    return this.until(expression, () => page.evaluate(expression).catch(() => false));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { case: wanted, options } = JSON.parse(line);
  const context = await browser.createBrowserContext();
  const tools = new Tools(context, options);
  let answer;
  try {
    answer = { result: (await cases[wanted](tools, options)) ?? null };
  } catch (error) {
    answer = { error: `${name}: ${error.stack}\nconsole:\n${tools.lines.join("\n")}` };
  }
  // A case may have killed a part of the browser.
  await context.close().catch((error) => console.error(error.message));
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
