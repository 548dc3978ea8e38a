// The object that a page holds.

import { Gaps } from "./gaps.ts";
import { type Stored, type Visit, save, watch } from "./page.ts";
import type { Frame } from "./protocol.ts";
import { Requests } from "./requests.ts";
import type { Line, Sink } from "./socket.ts";
import type { RequestOptions, State, StateDetail } from "./types.ts";

type Handler = (...values: never[]) => void;

// A message with one of these types reaches the handlers of "message" only.
const EVENTS = new Set(["message", "gap", "open", "close", "state", "error", "answer"]);

/** Report an exception of a page's handler, as browsers report those of their own events. */
function report(error: unknown): void {
  (globalThis.reportError ?? console.error)(error);
}

export class Client implements Sink, Visit {
  state: State = "connecting";

  /** What sends, and calls this sink. */
  _line: Line;

  private _url: string;
  private _key: string | undefined;
  private _handlers: Map<string, Set<Handler>> = new Map();
  private _gaps: Gaps = new Gaps((groups) => this._emit("gap", groups));
  private _requests: Requests;
  private _unwatch: () => void;
  private _isHidden = false;

  /**
   * @param url of the socket, for messages.
   * @param key of sessionStorage, to persist.
   * @param lineTo returns the line.
   */
  constructor(url: string, key: string | undefined, lineTo: (sink: Client) => Line) {
    this._url = url;
    this._key = key;
    this._line = lineTo(this);
    this._requests = new Requests((text) => this._line.send(text));
    this._unwatch = watch(this);
    this._line.open();
  }

  get id(): string | undefined {
    return this._line.id?.split("~")[0];
  }

  on(name: string, handler: Handler): () => void {
    const handlers = this._handlers.get(name) ?? new Set();
    this._handlers.set(name, handlers.add(handler));
    return () => void handlers.delete(handler);
  }

  send(message: unknown): boolean {
    const isRaw =
      typeof message === "string" ||
      message instanceof ArrayBuffer ||
      ArrayBuffer.isView(message) ||
      message instanceof Blob;
    return this._line.send(isRaw ? (message as string) : JSON.stringify(message));
  }

  request(type: string, fields?: object, options?: RequestOptions): Promise<unknown> {
    return this._requests.add(type, fields, options);
  }

  close(): void {
    this.save();
    this._finish();
    this._line.close();
  }

  private _finish(): void {
    this._unwatch();
    this._gaps.pause();
    this._requests.close();
  }

  private _emit(name: string, ...values: unknown[]): boolean {
    const handlers = [...(this._handlers.get(name) ?? [])];
    for (const handler of handlers) {
      try {
        handler(...(values as never[]));
      } catch (error) {
        report(error);
      }
    }
    return handlers.length > 0;
  }

  // From the line

  opened(): void {
    this._requests.opened();
    this._emit("open");
  }

  frame(frame: Frame): void {
    if ("reply" in frame || "errors" in frame) {
      const isHandled = this._requests.answer(frame) || this._emit("answer", frame);
      // A reply that comes too late was reported as a timeout.
      if (!isHandled && frame.ref === undefined) this.error(frame.errors);
      return;
    }
    const value = "data" in frame ? frame.data : (frame.text ?? frame.content ?? frame.binary);
    if (value === undefined) return; // a mark
    const type = (value as { type?: unknown } | null)?.type;
    if (typeof type === "string" && !EVENTS.has(type)) this._emit(type, value, frame);
    this._emit("message", value, frame);
  }

  gap(groups: Record<string, string | null>): void {
    this._gaps.add(groups);
  }

  changed(state: State, detail: StateDetail): void {
    // The page is left, and may come back.
    this.state = this._isHidden && state === "closed" ? "waiting" : state;
    this._emit("state", this.state, detail);
  }

  closed(code: number, reason: string, final: boolean): void {
    if (code === 1011) console.error(`WebSocket ${this._url} was closed with 1011: ${reason || "an error of the server"}`);
    if (!final) return this._requests.lost();
    if (this._key) save(this._key, undefined);
    this._finish();
    this._gaps.flush();
    this._emit("close", { code, reason });
  }

  error(error: unknown): void {
    if (!this._emit("error", error)) console.error(`WebSocket ${this._url}:`, error);
  }

  // From the page

  wake(): void {
    this._line.wake();
  }

  hide(): void {
    // The line first: this may be interrupted, see watch().
    this._isHidden = true;
    this._line.close();
    this.save();
    this._gaps.pause();
    this._requests.lost();
  }

  show(): void {
    if (!this._isHidden) return this.wake();
    this._isHidden = false;
    this._gaps.resume();
    this._line.open();
  }

  save(): void {
    const { id, first, positions } = this._line;
    const stored: Stored = { id, first, positions: [...positions] };
    if (this._key) save(this._key, stored);
  }
}
