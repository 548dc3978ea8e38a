// Groups that pages follow by messages of their own: the server is told of the first and the last page.

import type { Frame } from "./protocol.ts";

/** What a page sends. */
export interface Asked {
  type?: unknown;
  ref?: unknown;
  signed?: unknown;
  /** The position up to which the page has the group's messages. */
  at?: unknown;
}

interface Follow<P> {
  signed: string;
  pages: Set<P>;
  /** The server's answer, for the pages that follow later. */
  answer?: Frame;
}

/** Where a page's messages of a group go on. */
export type Place = string | undefined;

export class Follows<P> {
  private _follows: Map<string, Follow<P>> = new Map();
  // By `ref`: what the server was asked for.
  private _asked: Map<unknown, { page: P; key: string; at: Place }> = new Map();
  private _answer: (page: P, frame: Frame, at: Place, isFromServer: boolean) => boolean;

  /**
   * @param answer posts an answer to a page, then what follows the position that the page has asked for.
   *   Unless the answer is from the server, it returns whether these messages are there.
   */
  constructor(answer: (page: P, frame: Frame, at: Place, isFromServer: boolean) => boolean) {
    this._answer = answer;
  }

  /** Count a message of a page; return whether it must go to the server. */
  count(page: P, { type, ref, signed, at }: Asked): boolean {
    if (typeof signed !== "string" || (type !== "follow" && type !== "unfollow")) return true;
    const key = keyOf(signed);
    let follow = this._follows.get(key);
    if (type === "unfollow") {
      follow?.pages.delete(page);
      if (!follow?.pages.size) {
        this._follows.delete(key);
        return true;
      }
      this._answer(page, { type, ref, reply: null }, undefined, false);
      return false;
    }
    if (!follow) this._follows.set(key, (follow = { signed, pages: new Set() }));
    follow.pages.add(page);
    const place = typeof at === "string" ? at : undefined;
    if (follow.answer && this._answer(page, { ...follow.answer, ref }, place, false)) return false;
    this._asked.set(ref, { page, key, at: place });
    return true;
  }

  /** Pass on an answer of the server; return whether it is one to `follow`. */
  answered(frame: Frame): boolean {
    const asked = this._asked.get(frame.ref);
    if (!asked) return false;
    this._asked.delete(frame.ref);
    const { page, key, at } = asked;
    const follow = this._follows.get(key);
    if (frame.errors) {
      follow?.pages.delete(page);
      if (!follow?.pages.size) this._follows.delete(key);
    } else if (follow) follow.answer ??= frame;
    this._answer(page, frame, at, true);
    return true;
  }

  /** Forget a page; return what was signed for the groups that no page follows any more. */
  drop(page: P): string[] {
    const left: string[] = [];
    for (const [key, { pages, signed }] of this._follows) {
      if (!pages.delete(page) || pages.size) continue;
      this._follows.delete(key);
      left.push(signed);
    }
    return left;
  }

  /** The server has forgotten all. Pages follow again when they are told of the new connection. */
  clear(): void {
    this._follows.clear();
    this._asked.clear();
  }
}

/** Return what was signed, without the time and the signature that Django's `TimestampSigner` adds. */
function keyOf(signed: string): string {
  return signed.replace(/:[^:]*:[^:]*$/, "");
}
