// The page's side of the shared worker.

import { type Hello, type ToPage, type ToWorker, VERSION } from "./port.ts";
import { type Line, type Sink, Socket, type SocketOptions } from "./socket.ts";
import type { State } from "./types.ts";

/** The name of this page, beside the id of the socket that it shares. */
export const PAGE: string = Math.random().toString(36).slice(2, 12);

/** A page holds this many locks, one after the other. */
let locks = 0;

export class SharedLine implements Line {
  private _url: string;
  private _script: string | undefined;
  private _options: SocketOptions;
  private _sink: Sink;
  private _id: string | undefined;
  private _positions: Map<string, string>;
  private _first: string | undefined;
  private _state: State = "closed";
  private _port: MessagePort | undefined;
  private _unlock: () => void = () => {};
  private _isGreeted = false;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  // Where there is no worker: a socket of this page.
  private _socket: Socket | undefined;

  /**
   * @param url of the socket, absolute.
   * @param script the URL of worker.js.
   */
  constructor(url: string, script: string | undefined, options: SocketOptions, sink: Sink) {
    this._url = url;
    this._script = script;
    this._options = options;
    this._sink = sink;
    this._id = options.id;
    this._positions = new Map(options.positions);
  }

  get id(): string | undefined {
    return this._socket ? this._socket.id : this._id;
  }

  get positions(): Map<string, string> {
    return (this._socket ?? { positions: this._positions }).positions;
  }

  get first(): string | undefined {
    return this._socket ? this._socket.first : this._first;
  }

  open(): void {
    if (this._socket) return this._socket.open();
    if (this._port) return;
    const { identity } = this._options;
    let outlives = false;
    this._isGreeted = false;
    if (!this._script) return this._fall("the URL of worker.js is not known: use {% websocket_client %}");
    try {
      // Chromium refuses another value of the option for a worker with this name.
      const options = {
        name: `wsmux ${VERSION} ${identity} ${this._url}`,
        get extendedLifetime() {
          return (outlives = true);
        },
      };
      const worker = new SharedWorker(this._script, options);
      const port = (this._port = worker.port);
      worker.onerror = () => {
        if (port === this._port && !this._isGreeted) this._fall("worker.js cannot be loaded");
      };
      this._timer = setTimeout(() => this._fall("the worker does not answer"), 10_000);
      port.onmessage = (event) => {
        if (port === this._port) this._receive(event.data);
      };
      const hello: Hello = {
        version: VERSION,
        url: this._url,
        page: PAGE,
        identity,
        positions: [...this._positions],
        id: this._id?.replace(/\.[^~]*/, ""),
        auth: !!this._options.auth,
      };
      this._post({ hello });
      if (outlives) this._lock(port);
    } catch (error) {
      this._fall(String(error));
    }
  }

  close(): void {
    if (this._socket) return this._socket.close();
    this._post({ bye: true });
    this._end();
    this._set("closed", { attempts: 0 });
  }

  send(data: string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob): boolean {
    if (this._socket) return this._socket.send(data);
    const isOpen = this._state === "open";
    if (isOpen) this._post({ send: data });
    return isOpen;
  }

  wake(): void {
    if (this._socket) this._socket.wake();
    else this._post({ wake: true });
  }

  private _post(message: ToWorker): void {
    this._port?.postMessage(message);
  }

  /** Hold a lock until the page is left or dies. */
  private _lock(port: MessagePort): void {
    const name = `wsmux ${PAGE} ${++locks}`;
    void navigator.locks?.request(name, () => {
      if (port !== this._port) return;
      this._post({ lock: name });
      return new Promise<void>((resolve) => (this._unlock = resolve));
    });
  }

  private _end(): void {
    clearTimeout(this._timer);
    // The worker closes the port. Firefox loses the last message if the page does.
    this._port = undefined;
    this._unlock();
  }

  /** Do without the worker. */
  private _fall(reason: string): void {
    if (this._socket) return;
    this._post({ bye: true });
    this._end();
    console.warn(`WebSocket ${this._url} is not shared: ${reason}`);
    const { identity, auth } = this._options;
    const options = { id: this._id, identity, auth, positions: this._positions };
    this._socket = new Socket(this._url, options, this._sink);
    this._socket.open();
  }

  private _set(...state: NonNullable<ToPage["state"]>): void {
    if (state[0] === this._state) return;
    this._state = state[0];
    this._sink.changed(...state);
  }

  private _receive(message: ToPage): void {
    const sink = this._sink;
    if (message.hello) {
      this._isGreeted = true;
      clearTimeout(this._timer);
      if (message.hello !== VERSION) this._fall("the worker is of another version");
    }
    if (message.first !== undefined) {
      this._first = message.first;
      this._positions.delete("");
    }
    for (const [name, position] of message.positions ?? []) this._move(name, position);
    if (message.state) this._set(...message.state);
    if (message.opened) {
      this._id = message.opened.client.replace("~", `.${PAGE}~`);
      sink.opened(message.opened);
    }
    if (message.gap) {
      for (const [name, position] of Object.entries(message.gap)) this._move(name, position);
      sink.gap(message.gap);
    }
    if (message.frame) {
      this._move(message.frame.in, message.frame.at);
      sink.frame(message.frame);
    }
    if (message.warn) console.warn(message.warn);
    if (message.error) sink.error(message.error);
    if (message.auth) void this._answer(...message.auth);
    if (message.closed) {
      if (message.closed[2]) this._end();
      sink.closed(...message.closed);
    }
  }

  private _move(name: string | undefined, position: string | null | undefined): void {
    if (name === undefined || position === undefined) return;
    this._positions.delete(name);
    if (position) this._positions.set(name, position);
  }

  private async _answer(question: number, refused: boolean): Promise<void> {
    try {
      this._post({ token: [question, await this._options.auth?.(refused)] });
    } catch (error) {
      this._post({ failed: [question, error instanceof Error ? error : String(error)] });
    }
  }
}
