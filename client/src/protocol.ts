// The wire format of wsmux.v1 (docs/wire.rst), as functions without state.

import type { At, Errors } from "./types.ts";

export const V1: string = "wsmux.v1";

/** A group with a history, in a welcome or in `joined`. */
export interface Group {
  at?: string;
  recovered?: boolean | null;
}

/** A frame of the server. */
export interface Frame {
  welcome?: { client: string; ping: number; groups: Record<string, Group> };
  joined?: Record<string, Group>;
  left?: string[];
  gap?: Record<string, string>;
  bye?: { after: number };
  at?: string;
  in?: string;
  not?: string[];
  data?: unknown;
  text?: string;
  content?: string;
  binary?: ArrayBuffer;
  type?: string;
  ref?: unknown;
  reply?: unknown;
  errors?: Errors;
  retry_after?: number;
}

/** Return the frame in a message of the socket. Throws if it is malformed. */
export function parse(message: string | ArrayBuffer): Frame {
  if (typeof message === "string") return Object(JSON.parse(message)) as Frame;
  const end = 2 + new DataView(message).getUint16(0);
  const head = new TextDecoder().decode(message.slice(2, end));
  const space = head.indexOf(" ");
  const frame: Frame = { binary: message.slice(end) };
  if (space > 0) frame.at = head.slice(0, space);
  if (space >= 0) frame.in = head.slice(space + 1);
  return frame;
}

/**
 * Return the entry of a returning client in its list of subprotocols; undefined if it brings nothing.
 *
 * @param id the id of the client, with its signature.
 * @param identity the user that the page was made for.
 * @param positions by group, the newest last; "" stands for the first group that the view joins.
 */
export function entry(
  id: string | undefined,
  identity: string | undefined,
  positions: ReadonlyMap<string, string>,
): string | undefined {
  let sent = [...positions].slice(-64);
  if (!id && !identity && !sent.length) return undefined;
  for (;;) {
    const json = JSON.stringify({ c: id, u: identity, g: Object.fromEntries(sent) });
    // As in JSON of ASCII, so that each character is a byte.
    const ascii = json.replace(/[^\0-\x7f]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
    const text = btoa(ascii).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
    if (text.length <= 4096 || !sent.length) return "wsmux.at." + text;
    sent = sent.slice(1);
  }
}

/** Return the positions that a page brings, by group; "" for a position without a name. */
export function positionsIn(at: At | undefined): Map<string, string> {
  if (typeof at !== "string") return new Map(Object.entries(at ?? {}));
  const found = new Map<string, string>();
  for (const part of at.split(",")) {
    const end = part.lastIndexOf("@");
    if (part) found.set(decodeURIComponent(part.slice(0, Math.max(end, 0))), part.slice(end + 1));
  }
  return found;
}

/** Return whether a socket that was closed with this code does not return. */
export function isFinal(code: number): boolean {
  return [1000, 1002, 1003, 1007, 1008, 1009].includes(code) || code >= 4000;
}

/** Return a random number of milliseconds to wait after this many failures in a row. */
export function delay(failures: number): number {
  return Math.random() * Math.min(30_000, 500 * 2 ** failures);
}
