// What a page imports, or finds as `window.wsmux`.

import { load } from "./page.ts";
import { positionsIn } from "./protocol.ts";
import { Client } from "./room.ts";
import { Socket } from "./socket.ts";
import type { Anything, Options, Room } from "./types.ts";

export { RequestError } from "./types.ts";

/**
 * Open a WebSocket that returns after a lost connection, with the messages that it has missed.
 *
 * @param url of the WebSocket view; in a page it may be relative.
 * @param options see `Options`.
 *
 * @example
 * const room = connect("/ws/room/lobby/");
 * room.on("said", (message) => show(message.text));
 */
export function connect<Sends = Anything, Receives = Anything, Replies = Anything>(
  url: string,
  options: Options = {},
): Room<Sends, Receives, Replies> {
  const { at, auth, identity, persist, onclose } = options;
  const absolute = new URL(url, globalThis.document?.baseURI);
  absolute.protocol = absolute.protocol.replace("http", "ws");
  absolute.hash = "";
  const key = persist ? `wsmux ${absolute} ${identity}` : undefined;
  const stored = key ? load(key) : {};
  const brought = positionsIn(at);
  const positions = new Map(stored.positions);
  // The page's own positions win. One without a name is for the group that it was for last time; if that
  // is not known, it could be for any of them.
  if (brought.has("")) stored.first ? positions.delete(stored.first) : positions.clear();
  for (const [name, position] of brought) {
    positions.delete(name);
    positions.set(name, position);
  }
  const client = new Client(absolute.href, key, (sink) => new Socket(absolute.href, { id: stored.id, identity, positions, auth }, sink));
  const room = client as unknown as Room<Sends, Receives, Replies>;
  if (onclose) room.on("close", onclose);
  return room;
}

const wsmux = { connect };

declare global {
  interface Window {
    /** What this module exports, for scripts that do not import it. */
    wsmux: typeof wsmux;
  }
}

if (typeof window !== "undefined") window.wsmux = wsmux;
