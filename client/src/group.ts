// What the shared worker keeps of a group, for pages that come later.

import type { Frame } from "./protocol.ts";

const MOST = 200;
const MOST_CHARACTERS = 256 * 1024;

/** A position in parts. Offsets are without holes in an epoch. */
export interface Position {
  epoch: string;
  offset: number;
}

/** Return the parts of a position. */
export function parsePosition(text: string | undefined): Position | undefined {
  if (typeof text !== "string") return undefined;
  const end = text.lastIndexOf("-");
  return { epoch: text.slice(0, end), offset: Number(text.slice(end + 1)) };
}

/** Return whether a position is another one, or after it in its epoch. */
export function isAtOrAfter(one: string | undefined, other: string): boolean {
  const a = parsePosition(one);
  const b = parsePosition(other)!;
  return a !== undefined && a.epoch === b.epoch && a.offset >= b.offset;
}

/** Return the store of an epoch. */
function storeOf(epoch: string): string {
  return epoch.split(".")[0]!;
}

export class Group {
  // All messages after this position are in the list.
  private _start: string;
  private _frames: { frame: Frame; size: number }[] = [];
  private _size = 0;

  /** @param start the position after which messages will be added. */
  constructor(start: string) {
    this._start = start;
  }

  /** Keep a message that is not here yet; forget the oldest ones beyond the limits. */
  add(at: string, frame: Frame): void {
    if (isAtOrAfter(this._frames.at(-1)?.frame.at ?? this._start, at)) return;
    if (!("data" in frame || "text" in frame || "content" in frame || frame.binary)) {
      // A mark: what the view has sent for it cannot be repeated.
      this._start = at;
      this._frames = [];
      this._size = 0;
      return;
    }
    const size = frame.binary?.byteLength ?? JSON.stringify(frame).length;
    this._frames.push({ frame, size });
    this._size += size;
    while (this._frames.length > MOST || this._size > MOST_CHARACTERS) {
      const oldest = this._frames.shift()!;
      this._size -= oldest.size;
      this._start = oldest.frame.at!;
    }
  }

  /**
   * Return the messages after a position; undefined if some are not here.
   *
   * @param position of a page.
   * @param newest the position of the socket.
   */
  since(position: string, newest: string): Frame[] | undefined {
    if (position === newest) return [];
    const has = parsePosition(position);
    if (!has) return undefined;
    const is = parsePosition(newest)!;
    const start = parsePosition(this._start)!;
    const isSameEpoch = has.epoch === is.epoch;
    // Before the first message, each request for the position gives another epoch.
    if (!isSameEpoch && (has.offset || storeOf(has.epoch) !== storeOf(is.epoch))) return undefined;
    if (isSameEpoch && has.offset >= is.offset) return [];
    if (!is.offset) return [];
    const begins = start.epoch === is.epoch || !start.offset ? start.offset : Infinity;
    // Also if a page has brought something that is no position.
    if (!(has.offset >= begins)) return undefined;
    return this._frames
      .map((each) => each.frame)
      .filter((frame) => parsePosition(frame.at)!.offset > has.offset);
  }
}
