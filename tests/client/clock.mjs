// A clock that tests move, for the client's timers. Input and output take real time.

const real = { setTimeout, clearTimeout, now: performance.now.bind(performance), date: Date.now };

/** Wait for real milliseconds. */
export const sleep = (milliseconds) => new Promise((resolve) => real.setTimeout(resolve, milliseconds));

/** Wait until a function returns something true, and return that. */
export async function until(condition, what = condition) {
  const deadline = real.now() + 30_000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (real.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await sleep(5);
  }
}

/** Return whether the client calls: Node's own programs in JavaScript use the same globals. */
const isClient = () => /client\.js|client\/src/.test(new Error().stack.split("\n")[3]);

/** Replace the clock of the client. */
function replace(setTimer, clearTimer, now) {
  globalThis.setTimeout = (...values) => (isClient() ? setTimer : real.setTimeout)(...values);
  globalThis.clearTimeout = (id) => (typeof id === "number" ? clearTimer : real.clearTimeout)(id);
  performance.now = () => (isClient() ? now : real.now)();
  Date.now = () => (isClient() ? now : real.date)();
}

/** A clock of the client that stands still until `advance()`. */
export class Clock {
  constructor() {
    this.time = 1_000_000;
    this.timers = new Map();
    this.ids = 0;
    replace(
      (callback, milliseconds) => {
        this.timers.set(++this.ids, { at: this.time + Math.max(milliseconds, 0), callback });
        return this.ids;
      },
      (id) => this.timers.delete(id),
      () => this.time,
    );
  }

  /** Let milliseconds pass; run what is due, in order. */
  async advance(milliseconds) {
    const end = this.time + milliseconds;
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.at <= end);
      if (!due.length) break;
      const [id, timer] = due.reduce((first, each) => (each[1].at < first[1].at ? each : first));
      this.timers.delete(id);
      this.time = Math.max(this.time, timer.at);
      timer.callback();
      await null;
    }
    this.time = end;
  }

  /** How many timers wait. */
  get waiting() {
    return this.timers.size;
  }

  stop() {
    globalThis.setTimeout = real.setTimeout;
    globalThis.clearTimeout = real.clearTimeout;
    performance.now = real.now;
    Date.now = real.date;
  }
}

/** Let the client's time run faster by a factor. */
export function hurry(factor) {
  replace(
    (callback, milliseconds) => real.setTimeout(callback, milliseconds / factor),
    real.clearTimeout,
    () => real.now() * factor,
  );
}
