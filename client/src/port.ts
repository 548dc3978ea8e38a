// The messages between pages and the shared worker.

import type { Frame } from "./protocol.ts";
import type { State, StateDetail } from "./types.ts";

/** A part of the worker's name, which changes when the messages below change. */
export const VERSION = 2;

/** Positions by group, the newest last. */
export type Positions = [string, string][];

/** The first message of a page. */
export interface Hello {
  version: number;
  /** The absolute URL of the socket. */
  url: string;
  /** The name of the page. */
  page: string;
  identity: string | undefined;
  /** The positions of the page; "" for the first group that the view joins. */
  positions: Positions;
  /** The signed id of the tab's last socket, for a worker that has none. */
  id: string | undefined;
  /** Whether the page has a function that returns tickets or tokens. */
  auth: boolean;
  /** Whether page and worker may tell each other by Web Locks that they live. */
  locks: boolean;
}

/** From a page to the worker; each message has one of the keys. */
export interface ToWorker {
  hello?: Hello;
  send?: string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob;
  /** The page has the Web Lock with this name: it is dead when another one gets it. */
  lock?: string;
  wake?: true;
  /** The answer to `auth`; without a token, the cookies are used. */
  token?: [question: number, token: unknown];
  /** `auth()` raised this. */
  failed?: [question: number, error: unknown];
  /** The page is left. */
  bye?: true;
}

/** From the worker to a page; each message has one of the keys. */
export interface ToPage {
  /** The answer to `hello`: the worker's version. */
  hello?: number;
  /** The worker has the Web Lock with this name: it is dead when another one gets it. */
  lock?: string;
  state?: [State, StateDetail];
  opened?: NonNullable<Frame["welcome"]>;
  frame?: Frame;
  gap?: Record<string, string | null>;
  closed?: [code: number, reason: string, final: boolean];
  error?: unknown;
  /** A warning for the console. */
  warn?: string;
  /** Positions that are new to the page, without messages; null for a group that the view has left. */
  positions?: [string, string | null][];
  /** The name of the group that the page's position without a name is for. */
  first?: string;
  /** Ask for a ticket or a token. */
  auth?: [question: number, refused: boolean];
}
