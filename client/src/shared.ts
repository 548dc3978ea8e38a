// The page's side of the shared worker.

import { PAGE } from "./page.ts";
import { move } from "./protocol.ts";
import { type Hello, type ToPage, type ToWorker, VERSION } from "./port.ts";
import { type Line, type Sink, Socket, type SocketOptions } from "./socket.ts";
import type { State } from "./types.ts";

export class SharedLine implements Line {
  declare id: string | undefined;
  declare readonly positions: Map<string, string>;
  declare first: string | undefined;

  declare private _url: string;
  declare private _script: string | undefined;
  declare private _options: SocketOptions;
  declare private _sink: Sink & { _line: Line };
  private _state: State = "connecting";
  declare private _port: MessagePort | undefined;
  declare private _left: AbortController | undefined;
  // Until the worker greets.
  declare private _timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param url of the socket, absolute.
   * @param script the URL of worker.js.
   * @param sink what the line calls. If there is no worker, it is given a socket of this page.
   */
  constructor(
    url: string,
    script: string | undefined,
    options: SocketOptions,
    sink: Sink & { _line: Line },
  ) {
    this._url = url;
    this._script = script;
    this._options = options;
    this._sink = sink;
    this.id = options.id;
    this.positions = new Map(options.positions);
  }

  open(): void {
    if (this._port) return;
    const { identity } = this._options;
    // Pages without a user could be those of several users.
    if (!this._script || !identity) return this._fall("use {% websocket_client %}");
    let outlives = false;
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
        if (port === this._port && this._timer) this._fall("worker.js cannot be loaded");
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
        positions: [...this.positions],
        id: this.id?.replace(/\.[^~]*/, ""),
        auth: !!this._options.auth,
        // In Firefox, a lock keeps the page out of the browser's cache.
        locks: outlives,
      };
      this._post({ hello });
    } catch (error) {
      this._fall(String(error));
    }
  }

  close(): void {
    this._post({ bye: true });
    this._end();
    this._set("closed", { attempts: 0 });
  }

  send(data: string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob): boolean {
    const isOpen = this._state === "open";
    if (isOpen) this._post({ send: data });
    return isOpen;
  }

  wake(): void {
    this._post({ wake: true });
  }

  private _post(message: ToWorker): void {
    this._port?.postMessage(message);
  }

  /** Page and worker each hold a lock until they end, and wait for the other's. */
  private _guard(theirs: string): void {
    const { signal } = (this._left = new AbortController());
    const request = (name: string, held: () => unknown): void =>
      void navigator.locks.request(name, { signal }, held).catch(() => {});
    const mine = theirs + Math.random();
    request(mine, () => {
      this._post({ lock: mine });
      return new Promise((resolve) => (signal.onabort = resolve));
    });
    // Chromium ends the worker with the process of the page that was the first.
    request(theirs, () => signal.aborted || this._fall("the worker has died"));
  }

  private _end(): void {
    clearTimeout(this._timer);
    this._left?.abort();
    // The worker closes the port. Firefox loses the last message if the page does.
    this._port = undefined;
  }

  /** Do without the worker. */
  private _fall(reason: string): void {
    this._post({ bye: true });
    this._end();
    // What was sent may be lost.
    this._sink.closed(1006, reason, false);
    console.warn(`WebSocket ${this._url} is not shared: ${reason}`);
    const options = { ...this._options, id: this.id, positions: this.positions };
    this._sink._line = new Socket(this._url, options, this._sink);
    this._sink._line.open();
  }

  private _set(...state: NonNullable<ToPage["state"]>): void {
    if (state[0] === this._state) return;
    this._state = state[0];
    this._sink._changed(...state);
  }

  private _receive(message: ToPage): void {
    const sink = this._sink;
    if (message.hello) {
      this._timer = clearTimeout(this._timer) as undefined;
      if (message.hello !== VERSION) this._fall("the worker is of another version");
    }
    if (message.lock) this._guard(message.lock);
    if (message.first !== undefined) {
      this.first = message.first;
      this.positions.delete("");
    }
    const moved: [string, string | null][] = message.positions ?? Object.entries(message.gap ?? {});
    for (const each of moved) move(this.positions, ...each);
    if (message.state) this._set(...message.state);
    if (message.opened) {
      this.id = message.opened.client.replace("~", `.${PAGE}~`);
      sink.opened(message.opened);
    }
    if (message.gap) sink.gap(message.gap);
    if (message.frame) {
      if (message.frame.at) move(this.positions, message.frame.in!, message.frame.at);
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

  private async _answer(question: number, refused: boolean): Promise<void> {
    try {
      this._post({ token: [question, await this._options.auth?.(refused)] });
    } catch (error) {
      // Not every error can be posted.
      this._post({ failed: [question, Error(error as string)] });
    }
  }
}
