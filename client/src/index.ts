// What a page imports, or finds as `window.wsmux`.

import { load } from "./page.ts";
import { move, positionsIn } from "./protocol.ts";
import { Client } from "./room.ts";
import { SharedLine } from "./shared.ts";
import { Socket, type SocketOptions } from "./socket.ts";
import type { Anything, FetchOptions, Options, Room } from "./types.ts";

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
  // The element of {% websocket_client %}.
  const element = globalThis.document?.querySelector<HTMLElement>("script[data-wsmux-worker]");
  const { wsmuxWorker, wsmuxUser } = element?.dataset ?? {};
  const { at, auth, persist, shared, onclose, worker = wsmuxWorker, identity = wsmuxUser } = options;
  const absolute = new URL(url, globalThis.document?.baseURI);
  absolute.protocol = absolute.protocol.replace("http", "ws");
  absolute.hash = "";
  const key = persist || shared ? `wsmux ${absolute} ${identity}` : undefined;
  const stored = load(key);
  const brought = positionsIn(at);
  const positions = new Map(stored.positions);
  // The page's own positions win. One without a name is for the group that it was for last time; if that
  // is not known, it could be for any of them.
  if (brought.has("")) stored.first ? positions.delete(stored.first) : positions.clear();
  for (const each of brought) move(positions, ...each);
  const own: SocketOptions = { id: stored.id, identity, positions, auth };
  const client = new Client(absolute.href, key, (sink) =>
    shared && globalThis.SharedWorker
      ? new SharedLine(absolute.href, worker, own, sink)
      : new Socket(absolute.href, own, sink),
  );
  rooms = [...rooms.filter(isOpen), client];
  const room = client as unknown as Room<Sends, Receives, Replies>;
  if (onclose) room.on("close", onclose);
  return room;
}

/** The rooms of this page that were not closed when the newest one was made, the oldest first. */
let rooms: Client[] = [];

const isOpen = (room: Client): boolean => room.state !== "closed";

/**
 * Return the header `X-WebSocket-Client` for a request, so that its view knows the room that sends it:
 * `request.websocket_client` is `room.id`. For a request to another server, return no header: the signed
 * id must not reach other servers.
 *
 * @param url of the request; in a page it may be relative.
 * @param room default: the oldest one of the page that is not closed.
 *
 * @example
 * xhr.setRequestHeader(...Object.entries(wsmux.headers("/say/"))[0]);
 */
export function headers(url: string | URL, room?: FetchOptions["room"]): Record<string, string> {
  const chosen = (room as unknown as Client | undefined) ?? rooms.find(isOpen);
  const id = chosen?._line.id;
  const isOwn = new URL(url, globalThis.document?.baseURI).origin === globalThis.location?.origin;
  return id && isOwn ? { "X-WebSocket-Client": id } : {};
}

/**
 * Call the browser's `fetch()` with the header that `headers()` returns.
 *
 * If the server redirects such a request to another server, the promise rejects with a `TypeError`.
 *
 * @example
 * await wsmux.fetch("/say/", { method: "POST", body: new FormData(form) });
 */
export async function fetch(input: RequestInfo | URL, { room, ...init }: FetchOptions = {}): Promise<Response> {
  let request = new Request(input, init);
  for (const header of Object.entries(headers(request.url, room))) {
    request = new Request(request, { mode: "same-origin" });
    request.headers.set(...header);
  }
  return globalThis.fetch(request);
}

declare global {
  interface Window {
    /** What this module exports, for scripts that do not import it. */
    wsmux: { connect: typeof connect; fetch: typeof fetch; headers: typeof headers };
  }
}

if (globalThis.window) window.wsmux = { connect, fetch, headers };
