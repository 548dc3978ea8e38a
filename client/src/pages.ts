// The pages of a shared worker, and its socket.

import { type Asked, Follows } from "./follows.ts";
import { Group, type Position, isAtOrAfter, parsePosition } from "./group.ts";
import { type Hello, type ToPage, type ToWorker, VERSION } from "./port.ts";
import { after } from "./presence.ts";
import type { Frame, PresenceFrame } from "./protocol.ts";
import { type Sink, Socket } from "./socket.ts";
import type { People, State, StateDetail } from "./types.ts";

/** Milliseconds after which the socket is closed if no page is left. */
const GRACE = 5000;

/** Milliseconds after which a page that does not answer is not asked for a token any more. */
const PATIENCE = 10_000;

/** Milliseconds after the welcome within which a view may join the group of a page's position. */
const LATE = 5000;

/** Questions of which the worker remembers who asked. */
const MOST_ASKED = 1000;

class Page {
  readonly port: MessagePort;
  readonly name: string;
  readonly hasAuth: boolean;
  /** Up to where the page has the messages of each group. */
  readonly positions: Map<string, string>;

  constructor(port: MessagePort, hello: Hello) {
    this.port = port;
    this.name = hello.page;
    this.hasAuth = hello.auth;
    this.positions = new Map(hello.positions);
  }

  post(message: ToPage): void {
    this.port.postMessage(message);
  }
}

export class Pages implements Sink {
  private _pages: Set<Page> = new Set();
  private _groups: Map<string, Group> = new Map();
  // By group: who is present, as the server has told since the last welcome.
  private _present: Map<string, People> = new Map();
  private _socket: Socket | undefined;
  private _state: NonNullable<ToPage["state"]> = ["connecting", { attempts: 0 }];
  private _welcome: Frame["welcome"];
  /** The group that positions without a name are for. */
  private _first: string | undefined;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _lateTimer: ReturnType<typeof setTimeout> | undefined;
  // By `ref`: who asked.
  private _asked: Map<unknown, Page> = new Map();
  private _follows: Follows<Page> = new Follows((...answer) => this._follow(...answer));
  private _lastSender: Page | undefined;
  // Whether the next frame is the first one after a welcome, and when that came.
  private _mayBeFirst = false;
  private _openedAt = 0;
  private _question = 0;
  private _locked: Promise<string> | undefined;
  // By question: the page that is asked for a token, and what ends the wait for it.
  private _questions: Map<number, [Page, (message?: ToWorker) => void]> = new Map();

  /** Begin with a port of a page. */
  add(port: MessagePort): void {
    let page: Page | undefined;
    port.onmessage = (event) => {
      const message = event.data as ToWorker;
      if (message.hello && !page) page = this._greet(port, message.hello);
      else if (page) this._receive(page, message);
    };
  }

  private _greet(port: MessagePort, hello: Hello): Page | undefined {
    port.postMessage({ hello: VERSION } satisfies ToPage);
    if (hello.version !== VERSION) return undefined;
    const page = new Page(port, hello);
    this._pages.add(page);
    // Only secure pages have locks.
    if (hello.locks && navigator.locks) void this._lock().then((lock) => page.post({ lock }));
    clearTimeout(this._timer);
    if (!this._socket) {
      this._groups.clear();
      this._first = undefined;
      const { id, identity, positions } = hello;
      const auth = (refused: boolean): Promise<unknown> => this._ask(refused);
      this._socket = new Socket(hello.url, { id, identity, positions, auth }, this);
    }
    this._socket.open();
    // The user is there: what waits is tried at once.
    this._socket.wake();
    // Not the state of a socket that was closed before.
    page.post({ state: this._state });
    if (this._welcome) {
      page.post({ opened: this._welcome });
      this._settle(page);
      this._tryLater();
      for (const [name, all] of this._present) page.post({ frame: { in: name, presence: { all } } });
    } else {
      // Before the first welcome, the socket may still ask for what this page has missed.
      for (const [name, position] of hello.positions) {
        if (!this._socket.positions.has(name)) this._socket.positions.set(name, position);
      }
    }
    return page;
  }

  /** Return the name of a lock that the worker holds until it ends. */
  private _lock(): Promise<string> {
    const name = `wsmux ${Math.random()}`;
    return (this._locked ??= new Promise((resolve) => {
      void navigator.locks.request(name, () => {
        resolve(name);
        return new Promise(() => {});
      });
    }));
  }

  private _receive(page: Page, message: ToWorker): void {
    if (message.bye) this._drop(page);
    if (message.wake) this._socket?.wake();
    if (message.lock !== undefined) void navigator.locks.request(message.lock, () => this._drop(page));
    if (message.send !== undefined) this._send(page, message.send);
    const [question] = message.token ?? message.failed ?? [];
    if (question !== undefined) this._questions.get(question)?.[1](message);
  }

  /** Forget a page that has gone. */
  private _drop(page: Page): void {
    page.port.close();
    if (!this._pages.delete(page)) return;
    for (const [asked, end] of this._questions.values()) if (asked === page) end();
    for (const [ref, asking] of this._asked) if (asking === page) this._asked.delete(ref);
    for (const signed of this._follows.drop(page)) this._socket?.send(JSON.stringify({ type: "unfollow", signed }));
    if (!this._pages.size) this._timer = setTimeout(() => this._socket?.close(), GRACE);
  }

  private _post(message: ToPage): void {
    for (const page of this._pages) page.post(message);
  }

  private _send(page: Page, data: NonNullable<ToWorker["send"]>): void {
    this._mayBeFirst = false;
    this._lastSender = page;
    if (typeof data !== "string" || !this._note(page, data)) this._socket?.send(data);
  }

  /** Remember who asks; return whether the message need not go to the server. */
  private _note(page: Page, text: string): boolean {
    if (!/"(ref|signed)"/.test(text)) return false;
    let asked: Asked;
    try {
      asked = Object(JSON.parse(text)) as Asked;
    } catch {
      return false;
    }
    if (asked.ref !== undefined) {
      this._asked.delete(asked.ref);
      this._asked.set(asked.ref, page);
      // Not every view answers.
      if (this._asked.size > MOST_ASKED) this._asked.delete(this._asked.keys().next().value);
    }
    return this._state[0] === "open" && !this._follows.count(page, asked);
  }

  /** Return the token of a page, or nothing if no page has one. */
  private async _ask(refused: boolean): Promise<unknown> {
    const asked = new Set<Page>();
    for (;;) {
      // The newest page that was not asked yet.
      const page = [...this._pages].reverse().find((each) => each.hasAuth && !asked.has(each));
      if (!page) {
        // The server would refuse a socket without a token.
        if (asked.size) throw new Error("no page has answered with a token");
        return undefined;
      }
      asked.add(page);
      const question = ++this._question;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const answer = await new Promise<ToWorker | undefined>((resolve) => {
        this._questions.set(question, [page, resolve]);
        timer = setTimeout(resolve, PATIENCE);
        page.post({ auth: [question, refused] });
      });
      clearTimeout(timer);
      this._questions.delete(question);
      if (answer?.failed) throw answer.failed[1];
      if (answer) return answer.token?.[1];
    }
  }

  // From the socket

  _changed(state: State, detail: StateDetail): void {
    this._state = [state, detail];
    if (state !== "open") this._welcome = undefined;
    this._post({ state: this._state });
  }

  opened(welcome: NonNullable<Frame["welcome"]>): void {
    this._welcome = welcome;
    this._follows.clear();
    this._present.clear();
    this._mayBeFirst = true;
    this._openedAt = performance.now();
    const names = Object.keys(welcome.groups);
    this._first ??= names.find((name) => !name.startsWith("@")) ?? names[0];
    // The socket compares its positions first.
    queueMicrotask(() => {
      this._post({ opened: welcome });
      for (const page of this._pages) this._settle(page);
      this._tryLater();
    });
  }

  frame(frame: Frame): void {
    const { in: name, at, joined, left, presence } = frame;
    if (presence) return this._meet(name!, presence);
    if (joined || left) this._move(Object.entries(joined ?? {}), left ?? []);
    if ("reply" in frame || "errors" in frame || frame.ref !== undefined) return this._reply(frame);
    if (!("data" in frame || "text" in frame || "content" in frame || frame.binary || name !== undefined)) return;
    const mayBeFirst = this._mayBeFirst;
    this._mayBeFirst = false;
    if (name !== undefined && at) return this._deliver(name, at, frame);
    if (mayBeFirst && name === undefined && performance.now() - this._openedAt < 1000) {
      this._post({
        warn:
          "django_wsmux: the view sent a message when the socket was opened. The socket is shared: pages " +
          "that are opened later do not get this message. Render it into the page instead.",
      });
    }
    for (const page of this._pages) if (!frame.not?.includes(page.name)) page.post({ frame });
  }

  private _meet(name: string, presence: PresenceFrame): void {
    const present = after(this._present.get(name), presence);
    if (!present) return;
    this._present.set(name, present);
    this._post({ frame: { in: name, presence } });
  }

  gap(groups: Record<string, string | null>): void {
    for (const [name, position] of Object.entries(groups)) {
      if (position) this._groups.set(name, new Group(position));
      else this._groups.delete(name);
      for (const page of this._pages) {
        // A page that was rendered later has more.
        if (!position || !isAtOrAfter(page.positions.get(name), position)) this._miss(page, name, position);
      }
    }
  }

  closed(code: number, reason: string, final: boolean): void {
    this._asked.clear();
    this._post({ closed: [code, reason, final] });
    if (!final) return;
    this._socket = undefined;
    this._pages.clear();
  }

  error(error: unknown): void {
    this._post({ error: error instanceof Error ? error : String(error) });
  }

  private _reply(frame: Frame): void {
    if (this._follows.answered(frame)) return;
    const page = frame.ref === undefined ? this._lastSender : this._asked.get(frame.ref);
    this._asked.delete(frame.ref);
    // If the worker has forgotten who asked, the page knows its `ref`.
    if (!page) this._post({ frame });
    else if (this._pages.has(page)) page.post({ frame });
  }

  /** Post an answer about a group that a page follows, then what the page has missed; see `Follows`. */
  private _follow(page: Page, frame: Frame, at: string | undefined, isFromServer: boolean): boolean {
    const { in: name, recovered } = Object(frame.reply) as { in?: string; recovered?: boolean | null };
    let missed: Frame[] | undefined = [];
    if (name !== undefined && at !== undefined && !(isFromServer && recovered === false)) {
      const { positions } = this._socket!;
      if (!isFromServer) {
        const newest = positions.get(name);
        missed = newest === undefined ? undefined : this._groups.get(name)?.since(at, newest);
        if (!missed) return false;
        frame = { ...frame, reply: { in: name, recovered: true } };
      } else {
        // The server sends what follows this position.
        if (!positions.has(name)) positions.set(name, at);
        if (!this._groups.has(name)) this._groups.set(name, new Group(at));
      }
      // What came since the page has asked comes again.
      page.positions.set(name, at);
    }
    if (this._pages.has(page)) page.post({ frame });
    for (const each of missed) this._pass(page, name!, each.at!, each);
    return true;
  }

  // Positions

  private _deliver(name: string, at: string, frame: Frame): void {
    let group = this._groups.get(name);
    if (!group) this._groups.set(name, (group = new Group(before(at))));
    group.add(at, frame);
    for (const page of this._pages) this._pass(page, name, at, frame);
  }

  /** The view has joined and left groups. */
  private _move(joined: [string, { recovered?: boolean | null }][], left: string[]): void {
    for (const name of left) {
      this._groups.delete(name);
      this._present.delete(name);
      for (const page of this._pages) page.positions.delete(name);
      this._post({ positions: [[name, null]] });
    }
    if (left.length) this._post({ frame: { left } });
    for (const [name, { recovered }] of joined) if (!recovered) this._groups.delete(name);
    if (joined.length) for (const page of this._pages) this._settle(page);
  }

  /** Post a message to a page, unless the page has it. */
  private _pass(page: Page, name: string, at: string, frame: Frame): void {
    if (isAtOrAfter(page.positions.get(name), at)) return;
    page.positions.set(name, at);
    if (frame.not?.includes(page.name)) page.post({ positions: [[name, at]] });
    else page.post({ frame });
  }

  private _miss(page: Page, name: string, position: string | null): void {
    if (position) page.positions.set(name, position);
    else page.positions.delete(name);
    page.post({ gap: { [name]: position } });
  }

  /** Give a page what it has missed of the groups that the socket knows, or tell it a gap. */
  private _settle(page: Page): void {
    const first = this._socket!.first ?? this._first;
    const bare = page.positions.get("");
    if (bare !== undefined && first !== undefined) {
      page.positions.delete("");
      if (!page.positions.has(first)) page.positions.set(first, bare);
      page.post({ first, positions: [[first, page.positions.get(first)!]] });
    }
    const fresh: [string, string][] = [];
    for (const [name, newest] of this._socket!.positions) {
      if (!name) continue;
      let group = this._groups.get(name);
      if (!group) this._groups.set(name, (group = new Group(newest)));
      const position = page.positions.get(name);
      if (position === undefined) {
        // Not what the socket is still to be sent for other pages.
        const begin = later(newest, this._welcome?.groups[name]?.at);
        page.positions.set(name, begin);
        fresh.push([name, begin]);
        continue;
      }
      const missed = group.since(position, newest);
      if (!missed) this._miss(page, name, newest);
      else for (const frame of missed) this._pass(page, name, frame.at!, frame);
    }
    if (fresh.length) page.post({ positions: fresh });
  }

  /** The views of some groups join later; tell a gap of those that are not joined then. */
  private _tryLater(): void {
    clearTimeout(this._lateTimer);
    this._lateTimer = setTimeout(() => {
      if (!this._welcome) return;
      for (const page of this._pages) {
        this._settle(page);
        for (const name of page.positions.keys()) {
          if (!this._socket!.positions.has(name)) this._miss(page, name, null);
        }
      }
    }, LATE);
  }
}

/** Return the later one of two positions, or the first one if they cannot be compared. */
function later(one: string, other: string | undefined): string {
  const a = parsePosition(one)!;
  const b = parsePosition(other);
  return b && a.epoch === b.epoch && b.offset > a.offset ? other! : one;
}

/** Return the position before another one. */
function before(at: string): string {
  const { epoch, offset } = parsePosition(at) as Position;
  return `${epoch}-${offset - 1}`;
}
