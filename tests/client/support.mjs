// What the programs of these tests share. The environment has the address of the server (SITE),
// of the proxy before it (LINE) and of the proxy's commands (CONTROL).

import { Proxy } from "./proxy.mjs";
import { until } from "./clock.mjs";

export const { SITE, LINE } = process.env;
export const proxy = process.env.CONTROL ? new Proxy(process.env.CONTROL) : undefined;
export const { connect, RequestError } = await import(process.env.CLIENT);

// Node prepares its WebSocket upon first use: with its own clock, not one of these tests.
await new Promise((resolve) => {
  const websocket = new WebSocket(`${LINE}/echo/`);
  websocket.onopen = () => websocket.close();
  websocket.onclose = resolve;
});

/** Return the address of a socket. */
export const address = (path) => `${LINE}${path}`;

/** Get a page of the server. Not over the line: Node's WebSocket would take over a connection of a page. */
export async function get(path) {
  const response = await fetch(`${SITE}${path}`);
  return response.text();
}

/** Send a text to a group. */
export const tell = (group, say) => get(`/tell/?group=${group}&say=${say}`);

/** A connection and everything that it was told; `until()` waits for a part of that. */
export class Watched {
  constructor(path, options = {}) {
    this.seen = [];
    this.room = connect(address(path), options);
    for (const name of ["open", "close", "gap", "error"]) {
      this.room.on(name, (value) => this.seen.push([name, value]));
    }
    this.room.on("state", (state, detail) => this.seen.push(["state", { state, ...detail }]));
    this.room.on("message", (value, info) => this.seen.push(["message", value, info]));
  }

  /** Everything with this name that was told so far. */
  all(name) {
    return this.seen.filter(([each]) => each === name).map(([, value]) => value);
  }

  /** Wait until this has been told so many times; return the last of them. */
  until(name, count = 1) {
    return until(() => this.all(name).length >= count && [this.all(name)[count - 1]], `${count} times ${name}`).then(
      ([value]) => value,
    );
  }

  /** Wait for a state. */
  state(name) {
    return until(() => this.room.state === name, `the state ${name}, not ${this.room.state}`);
  }
}
