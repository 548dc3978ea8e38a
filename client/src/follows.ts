// Groups that pages follow by messages of their own: the server is told of the first and the last page.

import type { Frame } from "./protocol.ts";

/** What a page sends. */
export interface Asked {
  type?: unknown;
  ref?: unknown;
  signed?: unknown;
}

interface Follow<P> {
  signed: string;
  pages: Set<P>;
  /** The server's answer, for the pages that follow later. */
  answer?: Frame;
  /** Pages that have asked before the answer, and their `ref`. */
  waiting: [P, unknown][];
}

export class Follows<P> {
  private _follows: Map<string, Follow<P>> = new Map();
  private _answer: (page: P, frame: Frame) => void;

  constructor(answer: (page: P, frame: Frame) => void) {
    this._answer = answer;
  }

  /** Count a message of a page; return whether it must go to the server. */
  count(page: P, { type, ref, signed }: Asked): boolean {
    if (typeof signed !== "string" || (type !== "follow" && type !== "unfollow")) return true;
    const key = keyOf(signed);
    const follow = this._follows.get(key);
    if (type === "unfollow") {
      follow?.pages.delete(page);
      if (!follow?.pages.size) {
        this._follows.delete(key);
        return true;
      }
      this._answer(page, { type, ref, reply: null });
      return false;
    }
    if (!follow) {
      this._follows.set(key, { signed, pages: new Set([page]), waiting: [[page, ref]] });
      return true;
    }
    follow.pages.add(page);
    if (follow.answer) this._answer(page, { ...follow.answer, ref });
    else follow.waiting.push([page, ref]);
    return false;
  }

  /** Pass on an answer of the server; return whether it is one to `follow`. */
  answered(frame: Frame): boolean {
    for (const [key, follow] of this._follows) {
      if (follow.answer || frame.type !== "follow" || follow.waiting[0]![1] !== frame.ref) continue;
      follow.answer = frame;
      if (frame.errors) this._follows.delete(key);
      for (const [page, ref] of follow.waiting) this._answer(page, { ...frame, ref });
      return true;
    }
    return false;
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
  }
}

/** Return what was signed, without the time and the signature that Django's `TimestampSigner` adds. */
function keyOf(signed: string): string {
  return signed.replace(/:[^:]*:[^:]*$/, "");
}
