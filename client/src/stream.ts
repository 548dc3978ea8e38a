// <websocket-stream>: HTML that groups send to the page. {% websocket_stream %} renders the element.
//
// The attribute `at` is the position up to which the document has the group's messages. The document may
// come from the server, or be a copy that Turbo or the browser has kept: each time one appears, the
// messages after its position are asked for.

import { isAtOrAfter } from "./group.ts";
import type { Anything, FetchOptions, Options, RequestError, Room } from "./types.ts";

/** What this module uses of Turbo, htmx and client.js. */
interface Scripts {
  Turbo?: {
    renderStreamMessage(html: string): void;
    session: { refresh(url: string): void };
    cache: { clear(): void };
  };
  htmx?: {
    version: string;
    /** Of htmx 2; that of htmx 4 takes an object. */
    swap(what: Element | object, html?: string, how?: { swapStyle: string }): void;
  };
  wsmux: {
    connect(url: string, options: Options): Room;
    headers(url: string | URL, room?: FetchOptions["room"]): Record<string, string>;
  };
}

const scripts = window as unknown as Scripts;

/** Milliseconds between two refreshes because of names that the server does not accept. */
const REST = 30_000;

/** One room for each URL, and the groups that the page follows there. */
const rooms: Map<string, { room: Room; streams: Map<string, Stream> }> = new Map();

let refused = -REST;
let isOwn = false;

/** A group that elements of the page follow. */
class Stream {
  private _room: Room;
  private _streams: Map<string, Stream>;
  private _name: string;
  private _elements: Set<StreamElement> = new Set();
  private _signed = "";
  /** The position of the document. */
  private _at: string | undefined;
  /** The position of the newest message. */
  private _seen: string | undefined;
  private _isScheduled = false;
  private _isRendered = false;
  private _isFollowed = false;
  /** Whether the answer to the newest request is to come; messages that come before it come again. */
  private _isAsking = false;
  private _turn = 0;
  /** Whether messages are missing in the document. */
  private _isStale = false;
  private _timer: ReturnType<typeof setTimeout> | undefined;

  constructor(room: Room, streams: Map<string, Stream>, name: string) {
    this._room = room;
    this._streams = streams;
    this._name = name;
  }

  add(element: StreamElement): void {
    this._elements.add(element);
    this._isRendered = true;
    this._schedule();
  }

  delete(element: StreamElement): void {
    this._elements.delete(element);
    this._schedule();
  }

  /** Wait until the document is whole: new elements may come before old ones go. */
  private _schedule(): void {
    if (!this._isScheduled) queueMicrotask(() => this._settle());
    this._isScheduled = true;
  }

  private _settle(): void {
    this._isScheduled = false;
    if (!this._elements.size) {
      this._turn++;
      clearTimeout(this._timer);
      this._streams.delete(this._name);
      this._room.send({ type: "unfollow", signed: this._signed });
    } else if (this._isRendered) {
      this._isRendered = false;
      const had = this._at;
      let oldest: string | undefined;
      for (const element of this._elements) {
        this._signed = element.getAttribute("signed")!;
        const at = element.getAttribute("at") ?? undefined;
        if (!oldest || (at && isAtOrAfter(oldest, at))) oldest = at;
      }
      this._at = oldest;
      const hasAll = this._isFollowed && !this._isStale && (oldest && had ? isAtOrAfter(oldest, had) : oldest === had);
      this._isStale = false;
      clearTimeout(this._timer);
      if (hasAll) this._seen = oldest;
      else void this.follow();
    }
  }

  /** Ask the server for the messages after the position of the document. */
  async follow(isOpened = false): Promise<void> {
    if (this._room.state !== "open" || !this._elements.size) return;
    const isReturn = isOpened && this._isFollowed;
    const turn = ++this._turn;
    const at = this._at;
    this._seen = at;
    this._isAsking = at !== undefined;
    try {
      const fields = { signed: this._signed, at };
      const { recovered } = await this._room.request("follow", fields, { timeout: Infinity });
      if (turn !== this._turn) return;
      // Without a history, all is lost that was sent meanwhile.
      const isGap = recovered === false || (isReturn && at === undefined);
      this._isAsking = false;
      this._isFollowed = true;
      // Many pages may return at once.
      if (isGap) this._miss(isReturn ? Math.random() * 5000 : 0);
    } catch (error) {
      const { code, errors } = error as RequestError;
      if (turn !== this._turn || code !== "errors") return;
      this._isAsking = this._isFollowed = false;
      console.error(`<websocket-stream> ${this._name}:`, errors);
      const wait = refused + REST - performance.now();
      if (/expired|foreign/.test(errors["signed"]?.[0]?.code ?? "")) this._miss(Math.max(wait, 0), true);
    }
  }

  take(content: string | undefined, at: string | undefined): void {
    if (at) {
      if (this._isAsking || isAtOrAfter(this._seen, at)) return;
      this._seen = at;
      if (!this._isStale) this._move(at);
    }
    if (content !== undefined) for (const element of this._elements) if (show(element, content)) break;
  }

  gap(): void {
    if (!this._isStale && !this._isAsking) this._miss(0);
  }

  private _move(at: string): void {
    this._at = at;
    isOwn = true;
    for (const element of this._elements) element.setAttribute("at", at);
    isOwn = false;
  }

  /** Messages are missing: tell the page after some milliseconds, or have Turbo render it again. */
  private _miss(wait: number, isRefused = false): void {
    this._isStale = true;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => {
      if (isRefused) refused = performance.now();
      let isHandled = false;
      for (const element of this._elements) {
        const event = new CustomEvent("wsmux:gap", { bubbles: true, cancelable: true, detail: { group: this._name } });
        isHandled = !element.dispatchEvent(event) || isHandled;
      }
      // The copies of pages may be as old.
      scripts.Turbo?.cache.clear();
      if (!isHandled) scripts.Turbo?.session.refresh(document.baseURI);
      else if (this._isFollowed) {
        this._isStale = false;
        if (this._seen) this._move(this._seen);
      }
    }, wait);
  }
}

/** Show a message; return whether it was for the whole document. */
function show(element: Element, content: string): boolean {
  const { Turbo, htmx } = scripts;
  if (Turbo && content.includes("<turbo-stream")) {
    // Turbo would wait for a frame: meanwhile, the document may become another one, or be hidden.
    addEventListener("turbo:before-stream-render", renderNow);
    try {
      Turbo.renderStreamMessage(content);
    } finally {
      removeEventListener("turbo:before-stream-render", renderNow);
    }
    return true;
  }
  const isOutOfBand = !!htmx && /hx-swap-oob|<hx-partial/.test(content);
  const swap = isOutOfBand ? "none" : "innerHTML";
  if (!htmx) element.innerHTML = content;
  else if (htmx.version < "4") htmx.swap(element, content, { swapStyle: swap });
  else htmx.swap({ text: content, sourceElement: element, target: element, swap });
  return isOutOfBand;
}

function renderNow(event: Event): void {
  if (event.defaultPrevented) return;
  event.preventDefault();
  (event as CustomEvent<{ render(element: EventTarget | null): unknown }>).detail.render(event.target);
}

function streamOf(url: string, name: string): Stream {
  let found = rooms.get(url);
  if (!found || found.room.state === "closed") {
    const room = scripts.wsmux.connect(url, { shared: true });
    const streams = new Map<string, Stream>();
    rooms.set(url, (found = { room, streams }));
    room.on("open", () => streams.forEach((stream) => void stream.follow(true)));
    room.on("message", (_, info) => {
      if (info.in !== undefined) streams.get(info.in)?.take((info as Anything)["content"], info.at);
    });
    room.on("gap", (groups) => {
      // A group that the server told nothing about is one that the page followed on an earlier socket.
      for (const [name, at] of Object.entries(groups)) if (at) streams.get(name)?.gap();
    });
  }
  let stream = found.streams.get(name);
  if (!stream) found.streams.set(name, (stream = new Stream(found.room, found.streams, name)));
  return stream;
}

class StreamElement extends HTMLElement {
  static observedAttributes = ["signed", "at", "url"];

  private _stream: Stream | undefined;

  connectedCallback(): void {
    const signed = this.getAttribute("signed") ?? "";
    // Before the user, the time and the signature.
    this._stream = streamOf(this.getAttribute("url")!, signed.replace(/(:[^:]*){3}$/, ""));
    this._stream.add(this);
  }

  disconnectedCallback(): void {
    this._stream?.delete(this);
    this._stream = undefined;
  }

  attributeChangedCallback(): void {
    if (isOwn || !this._stream) return;
    this.disconnectedCallback();
    this.connectedCallback();
  }
}

/** Tell the views which page sends Turbo's requests. */
addEventListener("turbo:before-fetch-request", (event) => {
  const { fetchOptions, url } = (event as CustomEvent<{ fetchOptions: Anything; url: URL }>).detail;
  for (const [name, value] of Object.entries(scripts.wsmux.headers(url))) {
    fetchOptions["headers"][name] = value;
    // The server may redirect to another one.
    fetchOptions["mode"] = "same-origin";
  }
});

const define = (): void => customElements.define("websocket-stream", StreamElement);
// client.js may come later in the page.
if (scripts.wsmux) define();
else addEventListener("DOMContentLoaded", define);
