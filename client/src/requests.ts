// Requests: references, timeouts, and the queue of those that are sent again.

import { PAGE } from "./page.ts";
import { RequestError, type RequestOptions } from "./types.ts";
import type { Frame } from "./protocol.ts";

const MOST = 100;
const MOST_CHARACTERS = 256 * 1024;

interface Pending {
  _text: string;
  _isQueued: boolean;
  _isSent: boolean;
  _settle(error: unknown, reply?: unknown): void;
}

let count = 0;

export class Requests {
  private _send: (text: string) => boolean;
  private _pending: Map<unknown, Pending> = new Map();
  private _isClosed = false;

  constructor(send: (text: string) => boolean) {
    this._send = send;
  }

  add(type: string, fields: object | undefined, options: RequestOptions = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { timeout = 10_000, queue = false, signal } = options;
      const fail = (code: RequestError["code"], message: string): void => reject(new RequestError(code, message));
      // The server may keep answers by reference for minutes, so each load needs references of its own.
      const ref = `${PAGE}-${++count}`;
      const text = JSON.stringify({ ...fields, type, ref });
      signal?.throwIfAborted();
      if (this._isClosed) return fail("closed", "the socket is closed");
      if (queue) {
        const queued = [...this._pending.values()].filter((each) => each._isQueued);
        const size = queued.reduce((sum, each) => sum + each._text.length, text.length);
        if (queued.length >= MOST || size > MOST_CHARACTERS) return fail("full", "too many requests are queued");
      }
      const isSent = this._send(text);
      if (!isSent && !queue) return fail("disconnected", "there is no connection");
      const abort = (): void => settle(signal!.reason);
      const settle = (error: unknown, reply?: unknown): void => {
        this._pending.delete(ref);
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        if (error === undefined) resolve(reply);
        else reject(error);
      };
      // A longer timer would end at once.
      const timer =
        timeout < 2 ** 31 ? setTimeout(() => settle(new RequestError("timeout", "no answer in time")), timeout) : 0;
      signal?.addEventListener("abort", abort);
      this._pending.set(ref, { _text: text, _isQueued: queue, _isSent: isSent, _settle: settle });
    });
  }

  /** Settle the request that a frame answers; return whether there is one. */
  _answer(frame: Frame): boolean {
    const pending = this._pending.get(frame.ref);
    if (!pending) return false;
    const { errors } = frame;
    if (errors) {
      const messages = Object.values(errors).flat().map((error) => error?.message);
      pending._settle(new RequestError("errors", messages.join(" "), errors, frame.retry_after));
    } else pending._settle(undefined, frame.reply);
    return true;
  }

  /** Send what is queued, in order. */
  opened(): void {
    for (const each of this._pending.values()) if (!each._isSent) each._isSent = this._send(each._text);
  }

  /** The connection is lost: requests that are not queued fail. */
  _lost(): void {
    for (const each of [...this._pending.values()]) {
      each._isSent = false;
      if (!each._isQueued) each._settle(new RequestError("disconnected", "the connection was lost"));
    }
  }

  /** All requests fail. */
  close(): void {
    this._isClosed = true;
    for (const each of [...this._pending.values()]) each._settle(new RequestError("closed", "the socket is closed"));
  }
}
