// The object that a page holds.

import { Gaps } from "./gaps.ts";
import { type Visit, save, watch } from "./page.ts";
import { after, pick } from "./presence.ts";
import type { Frame, PresenceFrame } from "./protocol.ts";
import { Requests } from "./requests.ts";
import type { Line, Sink } from "./socket.ts";
import type { People, RequestOptions, State, StateDetail } from "./types.ts";

type Handler = (...values: never[]) => void;

// A message with one of these types reaches the handlers of "message" only.
const EVENTS = new Set(["message", "gap", "open", "close", "state", "error", "answer", "presence"]);

export class Client implements Sink, Visit {
  state: State = "connecting";
  present: Map<string, People> = new Map();

  /** What sends, and calls this sink. */
  declare _line: Line;

  declare private _url: string;
  declare private _key: string | undefined;
  private _handlers: Map<string, Set<Handler>> = new Map();
  private _gaps: Gaps = new Gaps((groups) => this._emit("gap", groups));
  declare private _requests: Requests;
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
    this._save();
    this._finish();
    this._line.close();
  }

  private _finish(): void {
    this.present.clear();
    this._unwatch();
    this._gaps._pause();
    this._requests.close();
  }

  private _emit(name: string, ...values: unknown[]): boolean {
    const handlers = [...(this._handlers.get(name) ?? [])];
    for (const handler of handlers) {
      try {
        handler(...(values as never[]));
      } catch (error) {
        // As browsers report those of their own events.
        (globalThis.reportError ?? console.error)(error);
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
      const isHandled = this._requests._answer(frame) || this._emit("answer", frame);
      // A reply that comes too late was reported as a timeout.
      if (!isHandled && frame.ref === undefined) this.error(frame.errors);
      return;
    }
    for (const name of frame.left ?? []) this.present.delete(name);
    if (frame.presence) return this._meet(frame.in!, frame.presence);
    const value = "data" in frame ? frame.data : (frame.text ?? frame.content ?? frame.binary);
    if (value === undefined) return; // a mark
    const type = (value as { type?: unknown } | null)?.type;
    if (typeof type === "string" && !EVENTS.has(type)) this._emit(type, value, frame);
    this._emit("message", value, frame);
  }

  private _meet(group: string, changes: PresenceFrame): void {
    const had = this.present.get(group);
    const present = after(had, changes);
    if (!present) return;
    this.present.set(group, present);
    // Those in the first list have not just come.
    const earlier = had ?? present;
    const joined = pick(present, (key) => JSON.stringify(present[key]) !== JSON.stringify(earlier[key]));
    const left = pick(earlier, (key) => !(key in present));
    const isNews = !had || Object.keys({ ...joined, ...left }).length;
    if (isNews) this._emit("presence", { group, present, joined, left });
  }

  gap(groups: Record<string, string | null>): void {
    this._gaps.add(groups);
  }

  _changed(state: State, detail: StateDetail): void {
    // The page is left, and may come back.
    this.state = this._isHidden && state === "closed" ? "waiting" : state;
    this._emit("state", this.state, detail);
  }

  closed(code: number, reason: string, final: boolean): void {
    if (code === 1011) console.error(`WebSocket ${this._url} was closed with 1011: ${reason || "an error of the server"}`);
    if (!final) return this._requests._lost();
    save(this._key, undefined);
    this._finish();
    this._gaps._flush();
    this._emit("close", { code, reason });
  }

  error(error: unknown): void {
    if (!this._emit("error", error)) console.error(`WebSocket ${this._url}:`, error);
  }

  // From the page

  wake(): void {
    this._line.wake();
  }

  _hide(): void {
    // The line first: this may be interrupted, see watch().
    this._isHidden = true;
    this._line.close();
    this._save();
    this._gaps._pause();
    this._requests._lost();
  }

  _show(): void {
    if (!this._isHidden) return this.wake();
    this._isHidden = false;
    this._gaps._resume();
    this._line.open();
  }

  _save(): void {
    const { id, first, positions } = this._line;
    save(this._key, { id, first, positions: [...positions] });
  }
}
