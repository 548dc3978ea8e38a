// Hands htmx's own extensions for WebSockets, `ws` of htmx 2 and `hx-ws` of htmx 4, a socket that returns
// with what it has missed. It must run before htmx begins with the page.

import type { Frame } from "./protocol.ts";
import type { Room } from "./types.ts";

/** What the extensions use of a WebSocket. They never see a loss of the connection, only that it is away. */
class ReturningSocket extends EventTarget {
  readonly OPEN = 1;
  readyState = 0;
  onopen: unknown;
  onmessage: unknown;
  onclose: unknown;
  onerror: unknown;

  /** The element that has opened it. */
  _element: Element | undefined;
  _room: Room;

  private _unsent: string[] = [];

  /**
   * @param url may have positions: `?at=`.
   * @param wrap returns the message that htmx is given for HTML.
   */
  constructor(url: string, wrap: (content: string) => string) {
    super();
    for (const name of ["open", "message", "close", "error"] as const) {
      this.addEventListener(name, (event) => (this[`on${name}`] as ((event: Event) => void) | undefined)?.(event));
    }
    // As it is written: names in it are encoded.
    const at = /[?&]at=([^&#]*)/.exec(url)?.[1];
    const bare = url.replace(/([?&])at=[^&#]*&?/, "$1").replace(/[?&](?=#|$)/, "");
    const room = (this._room = window.wsmux.connect(bare, { at, shared: isShared }));
    const receive = (data: unknown): void => this._tell(new MessageEvent("message", { data }));
    room.on("state", (state) => {
      if (state !== "closed" && this.readyState < 2) this.readyState = 0;
    });
    room.on("open", () => {
      this.readyState = 1;
      for (const data of this._unsent.splice(0)) this.send(data);
      this._tell(new Event("open"));
    });
    room.on("message", (value, info) => {
      const { content, text } = info as Frame;
      const isRaw = text !== undefined || (value as unknown) instanceof ArrayBuffer;
      receive(content !== undefined ? wrap(content) : isRaw ? value : JSON.stringify(value));
    });
    room.on("answer", (answer) => receive(JSON.stringify(answer)));
    room.on("gap", (detail) => {
      this._element?.dispatchEvent(new CustomEvent("wsmux:gap", { detail, bubbles: true }));
    });
    room.on("close", (closed) => this._end(closed));
  }

  send(data: string): void {
    if (this.readyState > 1) return;
    // The page that asks is known to the shared worker by the reference. One of its own wins.
    const text = isShared ? data.replace(/^\{(?=")/, `{"ref":"${load}-${++count}",`) : data;
    if (!this._room.send(text)) this._unsent.push(data);
  }

  close(code = 1005, reason = ""): void {
    // hx-ws closes the sockets of a page that is left. The page may come back from the browser's cache.
    if (this.readyState > 1 || window.event?.type === "pagehide") return;
    this.readyState = 2;
    this._room.close();
    setTimeout(() => this._end({ code, reason }));
  }

  private _end(closed: CloseEventInit): void {
    this.readyState = 3;
    this._tell(new CloseEvent("close", { wasClean: true, ...closed }));
  }

  private _tell(event: Event): void {
    this.dispatchEvent(event);
  }
}

const isShared = !!document.querySelector("script[data-wsmux-shared]");
const load = Math.random().toString(36).slice(2, 12);
let count = 0;

const sockets: WeakMap<Element, ReturningSocket> = new WeakMap();

function assign(element: Element, socket: ReturningSocket | undefined): void {
  if (!socket) return;
  sockets.set(element, socket);
  socket._element = element;
}

/** Return the room of the closest element that has one. */
function roomOf(element: Element | null): Room | undefined {
  for (; element; element = element.parentElement) {
    const socket = sockets.get(element);
    if (socket && socket.readyState < 2) return socket._room;
  }
  return undefined;
}

/** Call a function for each event that reaches the window: it is the last to see it. */
function listen(name: string, callback: (event: CustomEvent) => void): void {
  addEventListener(name, (event) => {
    if (!event.defaultPrevented) callback(event as CustomEvent);
  });
}

// htmx 2

interface Htmx {
  createWebSocket?: (url: string) => unknown;
}

let created: ReturningSocket | undefined;

function install(): void {
  const htmx = (window as { htmx?: Htmx }).htmx;
  if (htmx) htmx.createWebSocket = (url) => (created = new ReturningSocket(url, (content) => content));
}

install();
// htmx may be loaded after this module. Its own handler follows.
document.addEventListener("DOMContentLoaded", install);

listen("htmx:wsConnecting", ({ target }) => {
  assign(target as Element, created);
  created = undefined;
  // A copy of the page that htmx had kept would ask for messages that it has: the server renders it again.
  (target as Element).setAttribute("hx-history", "false");
});

listen("htmx:configRequest", ({ detail }) => {
  Object.assign(detail.headers, window.wsmux.headers(detail.path, roomOf(detail.elt)));
});

// htmx 4

listen("htmx:ws:before:connection", ({ target, detail: { connection } }) => {
  const { config, cancelled } = connection;
  // A view with protocols of its own does not speak ours.
  if (cancelled || config.protocols) return;
  config.pauseOnBackground = config.reconnect = false;
  const Native = window.WebSocket;
  const restore = (): void => {
    if ((window.WebSocket as unknown) === Once) window.WebSocket = Native;
  };
  // When the event is over, hx-ws calls the constructor at once.
  function Once(url: string, protocols?: string[]): unknown {
    restore();
    if (url !== connection.url) return new Native(url, protocols);
    const socket = new ReturningSocket(url, (content) => JSON.stringify({ content }));
    assign(target as Element, socket);
    return socket;
  }
  window.WebSocket = Once as unknown as typeof WebSocket;
  queueMicrotask(restore);
});

listen("htmx:config:request", ({ detail: { ctx } }) => {
  const { request } = ctx;
  // With another mode, a redirect could carry the header to another server.
  if (request.mode !== "same-origin") return;
  Object.assign(request.headers, window.wsmux.headers(request.action, roomOf(ctx.sourceElement)));
});
