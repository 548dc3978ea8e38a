// One connection that returns. It knows no page: it runs in a page, in a shared worker and in Node.

import { type Frame, type Group, V1, delay, entry, isFinal, move, parse } from "./protocol.ts";
import type { State, StateDetail } from "./types.ts";

/** Options of a `Socket`. */
export interface SocketOptions {
  /** The id of an earlier socket, with its signature. */
  id?: string | undefined;
  /** The user that the page was made for. */
  identity?: string | undefined;
  /** Positions by group, the newest last; "" for the first group that the view joins. */
  positions?: Iterable<readonly [string, string]> | undefined;
  /** Returns a ticket or a token before each attempt. */
  auth?: ((refused: boolean) => unknown) | undefined;
}

/** What a `Socket` calls. It must not throw. */
export interface Sink {
  /** After each welcome. */
  opened(welcome: NonNullable<Frame["welcome"]>): void;
  /** A message, a mark, a reply, errors; groups that were joined or left, after the positions have changed. */
  frame(frame: Frame): void;
  /** Messages of these groups were missed; the values are the new positions, null if there is none. */
  gap(groups: Record<string, string | null>): void;
  _changed(state: State, detail: StateDetail): void;
  /** After each socket of the server; `final` if none follows. */
  closed(code: number, reason: string, final: boolean): void;
  /** An exception: of `auth()`, or about a malformed frame. */
  error(error: unknown): void;
}

/** What a room needs: a `Socket`, or the port of a shared worker. */
export interface Line {
  /** The signed id; undefined before the first welcome. */
  id: string | undefined;
  /** The newest position of each group, the newest last. */
  readonly positions: Map<string, string>;
  /** The name of the group that a position without a name was for. */
  first: string | undefined;
  open(): void;
  close(): void;
  send(data: string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob): boolean;
  /** Look at once whether the connection lives, or try again at once. */
  wake(): void;
}

const now = (): number => performance.now();

export class Socket implements Line {
  declare id: string | undefined;
  declare readonly positions: Map<string, string>;
  declare first: string | undefined;
  /** Seconds of silence that the server promises not to exceed; 0 for no limit. */
  ping = 0;

  declare private _url: string;
  declare private _options: SocketOptions;
  declare private _sink: Sink;
  declare private _websocket: WebSocket | undefined;
  private _state: State = "closed";
  // Counts what begins and ends: an event that belongs to an earlier number is ignored.
  private _turn = 0;
  declare private _timer: ReturnType<typeof setTimeout> | undefined;
  private _failures = 0;
  private _isRefused = false;
  declare private _after: number | undefined;
  private _tried = -Infinity;
  private _opened = 0;
  private _heard = 0;
  private _heardDate = 0;
  // Positions of which the server has told nothing.
  private _untold: Set<string> = new Set();
  declare private _untoldTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(url: string, options: SocketOptions, sink: Sink) {
    this._url = url;
    this._options = options;
    this._sink = sink;
    this.id = options.id;
    this.positions = new Map(options.positions);
  }

  open(): void {
    if (this._state === "closed") this._connectSoon();
  }

  close(): void {
    this._end();
    this._setState("closed");
  }

  send(data: string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob): boolean {
    const isOpen = this._state === "open" && this._websocket!.readyState === 1;
    if (isOpen) this._websocket!.send(data);
    return isOpen;
  }

  wake(): void {
    if (this._state === "open") {
      // A suspended machine stops one of these clocks; the user may set the other one.
      const silence = Math.max(now() - this._heard, Date.now() - this._heardDate);
      if (this.ping && silence > this.ping * 2500) this._doubt();
    } else if (/waiting|offline/.test(this._state) && this._after === undefined) this._connectSoon();
  }

  // Connecting

  /** Connect, but not within a second after the last attempt. */
  private _connectSoon(): void {
    const wait = this._tried + 1000 - now();
    if (wait > 0) {
      this._wait(wait);
      if (this._state === "closed") this._setState("connecting");
    } else void this._connect();
  }

  private _wait(milliseconds: number): void {
    this._setTimer(milliseconds, () => void this._connect());
  }

  private async _connect(): Promise<void> {
    this._end();
    const turn = this._turn;
    this._tried = now();
    this._after = undefined;
    // The time until the welcome, with that for auth().
    this._setTimer(30_000, () => this._lost(1006, "no welcome"));
    this._setState("connecting");
    try {
      // Nothing is awaited without need: the socket opens in this turn of the event loop.
      const token = this._options.auth && (await this._options.auth(this._isRefused));
      if (turn !== this._turn) return;
      const protocols = [V1, entry(this.id, this._options.identity, this.positions)];
      if (token) protocols.push("bearer", encodeURIComponent(token as string));
      const websocket = new WebSocket(this._url, protocols.filter((name) => name) as string[]);
      this._websocket = websocket;
      websocket.binaryType = "arraybuffer";
      websocket.onopen = () => {
        if (turn === this._turn && websocket.protocol !== V1) this._lost(1002, "the server does not speak " + V1);
      };
      websocket.onmessage = (event) => {
        if (turn === this._turn) this._receive(event.data);
      };
      websocket.onclose = (event) => {
        if (turn === this._turn) this._lost(event.code, event.reason);
      };
    } catch (error) {
      if (turn === this._turn) {
        this._sink.error(error);
        if (turn === this._turn) this._lost(1006, String(error));
      }
    }
  }

  /** Forget the present socket and all timers. */
  private _end(): void {
    this._turn++;
    clearTimeout(this._timer);
    clearTimeout(this._untoldTimer);
    this._websocket?.close(1000);
    this._websocket = undefined;
  }

  /** Return, or not. */
  private _lost(code: number, reason: string): void {
    this._end();
    const turn = this._turn;
    if (this._state === "open" && now() - this._opened > 5000) this._failures = 0;
    let final = isFinal(code);
    if (code === 4401) {
      final = this._isRefused;
      this._isRefused = true;
    } else if (code === 4900) {
      final = false;
      this.id = undefined;
    }
    if (final) {
      this._setState("closed", { code, reason });
      if (turn === this._turn) this._sink.closed(code, reason, true);
      return;
    }
    const wait = this._after === undefined ? delay(this._failures) : this._after * 1000;
    this._failures++;
    this._wait(wait);
    const isOffline = globalThis.navigator?.onLine === false;
    this._setState(isOffline ? "offline" : "waiting", { after: wait / 1000, code, reason });
    this._sink.closed(code, reason, false);
  }

  private _setState(state: State, detail: Partial<StateDetail> = {}): void {
    if (state === this._state) return;
    this._state = state;
    this._sink._changed(state, { attempts: this._failures, ...detail });
  }

  private _setTimer(milliseconds: number, callback: () => void): void {
    clearTimeout(this._timer);
    this._timer = setTimeout(callback, milliseconds);
  }

  // Receiving

  private _receive(message: string | ArrayBuffer): void {
    try {
      const frame = parse(message);
      if (frame.welcome) return this._welcome(frame.welcome);
      if (this._state === "open") this._listen();
      if (frame.at) move(this.positions, frame.in!, frame.at);
      if (frame.joined) this._tell(frame.joined);
      for (const name of frame.left ?? []) this._forget(name);
      if (frame.gap) this._raise(Object.entries(frame.gap));
      // A timer cannot wait for longer than 24 days.
      else if (frame.bye) this._after = Math.min(frame.bye.after, 1e6);
      else if (Object.keys(frame).length) this._sink.frame(frame);
    } catch (error) {
      this._sink.error(error);
    }
  }

  private _welcome(welcome: NonNullable<Frame["welcome"]>): void {
    const turn = this._turn;
    this.id = welcome.client;
    this.ping = welcome.ping;
    this._opened = now();
    this._isRefused = false;
    this._untold = new Set(this.positions.keys());
    this._listen();
    this._setState("open");
    if (turn !== this._turn) return;
    this._sink.opened(welcome);
    if (turn !== this._turn) return;
    this._tell(welcome.groups);
    // A function view joins later.
    if (!this._untold.size) return;
    this._untoldTimer = setTimeout(() => this._raise(Array.from(this._untold, (name) => [name, null])), 5000);
  }

  /** Compare what the server tells about groups with the positions. */
  private _tell(groups: Record<string, Group>): void {
    const gaps: [string, string | null][] = [];
    for (const [name, { at, recovered }] of Object.entries(groups)) {
      const bare = this.positions.get("");
      if (bare && recovered !== undefined && !this.positions.has(name)) {
        // The server has taken the position without a name for this group.
        this._forget("");
        this.positions.set((this.first = name), bare);
      }
      this._untold.delete(name);
      if (recovered) continue;
      if (recovered === null && this.positions.has(name)) continue;
      // The positions may be in the URL, too.
      if (recovered === false || this.positions.has(name)) gaps.push([name, at ?? null]);
      if (at) move(this.positions, name, at);
    }
    this._raise(gaps);
  }

  private _forget(name: string): void {
    this.positions.delete(name);
    this._untold.delete(name);
  }

  private _raise(gaps: [string, string | null][]): void {
    for (const gap of gaps) move(this.positions, ...gap);
    // This takes each name, "__proto__" too.
    if (gaps.length) this._sink.gap(Object.fromEntries(gaps));
  }

  // Silence

  private _listen(): void {
    this._heard = now();
    this._heardDate = Date.now();
    if (this.ping) this._setTimer(this.ping * 2400, () => this._doubt());
    else clearTimeout(this._timer);
  }

  /** Wait a little longer: if the machine was busy or asleep, messages may be waiting, too. */
  private _doubt(): void {
    this._setTimer(this.ping * 100, () => this._lost(1006, "silence"));
  }
}
