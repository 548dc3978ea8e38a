// The wire format of wsmux.v1 (docs/wire.rst), as functions without state.

import type { At, Errors, People } from "./types.ts";

export const V1: string = "wsmux.v1";

/** A group with a history, in a welcome or in `joined`. */
export interface Group {
  at?: string;
  recovered?: boolean | null;
}

/** Who is present in a group: the whole list, or what has changed. */
export interface PresenceFrame {
  all?: People;
  joined?: People;
  left?: string[];
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
  presence?: PresenceFrame;
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

/** Set a group's position; forget it if there is none. The newest is the last. */
export function move(positions: Map<string, string>, name: string, position: string | null | undefined): void {
  positions.delete(name);
  if (position) positions.set(name, position);
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
  const sent = [...positions].slice(-64);
  if (!id && !identity && !sent.length) return undefined;
  for (;;) {
    const json = JSON.stringify({ c: id, u: identity, g: Object.fromEntries(sent) });
    // Each byte as a character.
    const bytes = String.fromCharCode(...new TextEncoder().encode(json));
    const text = btoa(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
    if (text.length <= 4096 || !sent.shift()) return "wsmux.at." + text;
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
  return /^(4...|100[0237-9])$/.test(`${code}`);
}

/** Return a random number of milliseconds to wait after this many failures in a row. */
export function delay(failures: number): number {
  return Math.random() * Math.min(30_000, 500 * 2 ** failures);
}
