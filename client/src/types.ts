// The public interface. It becomes client.d.ts, so this module imports nothing.

/** Fields of a message of any type. */
export type Anything = Record<string, any>;

/** Positions: the text of `{% websocket_position %}`, or an object of positions by group. */
export type At = string | Readonly<Record<string, string>>;

/**
 * The state of a connection.
 *
 * `open` begins with the server's welcome. `waiting` and `offline` (the browser has no network) last
 * until the next attempt. `closed` is final.
 */
export type State = "connecting" | "open" | "waiting" | "offline" | "closed";

/** What the event `state` tells beside the state. */
export interface StateDetail {
  /** How many attempts have failed since the socket was last open for five seconds. */
  attempts: number;
  /** Seconds until the next attempt. */
  after?: number;
  /** The code of the close that ended the last socket. */
  code?: number;
  /** Its reason. */
  reason?: string;
}

/** Why the socket closed and does not return. */
export interface Closed {
  code: number;
  reason: string;
}

/** Where a message comes from. */
export interface Info {
  /** The group, as the server names it for clients; absent for a message to this socket. */
  in?: string;
  /** The message's position in its group; absent for a group without a history. */
  at?: string;
}

/** The errors of a message: lists by the names of its fields, as `Form.errors.get_json_data()` has them. */
export type Errors = Record<string, { message: string; code: string }[]>;

/** People by key, with what the view tells of each. The object inherits no names. */
export type People<Info = any> = Readonly<Record<string, Info>>;

/** Who is present in a group, and what has changed since the last event of the group. */
export interface Presence<Info = any> {
  /** The group, as the server names it for clients. */
  group: string;
  /** All who are present. */
  present: People<Info>;
  /** Who has come, or has other information than before. Empty with the first list of the group. */
  joined: People<Info>;
  /** Who has gone, with the last information. */
  left: People<Info>;
}

/** Options of `connect()`. */
export interface Options {
  /** Positions up to which the page has all messages. */
  at?: At | undefined;
  /**
   * Called before each attempt. Returns a ticket or a token, or nothing to use the cookies.
   *
   * @param refused whether the last attempt was refused with 4401.
   */
  auth?: ((refused: boolean) => Promise<string | undefined | void> | string | undefined | void) | undefined;
  /** Keep id and positions in `sessionStorage`, for the next page with this URL in this tab. */
  persist?: boolean | undefined;
  /**
   * Share one socket with all pages of this user and URL, where the browser has shared workers. The socket
   * outlives the page if the browser supports it; otherwise the next page resumes, as with `persist`.
   * It needs `worker` and `identity`.
   */
  shared?: boolean | undefined;
  /** The URL of worker.js on the server of the page. Default: that of `{% websocket_client %}`. */
  worker?: string | undefined;
  /** The user that the page was made for. Default: that of `{% websocket_client %}`. */
  identity?: string | undefined;
  /** Called like a handler of the event `close`. */
  onclose?: ((event: Closed) => void) | undefined;
}

/** Options of `Room.request()`. */
export interface RequestOptions {
  /** Milliseconds until the promise rejects. Default: 10,000; `Infinity` for no limit. */
  timeout?: number | undefined;
  /** Wait for a connection, and send again after a lost one until there is an answer. */
  queue?: boolean | undefined;
  /** Rejects the promise with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Why a request failed. If the server answered with errors, `message` has the messages of all of them. */
export class RequestError extends Error {
  /**
   * `errors`: the server answered with errors. `timeout`: no answer came in time. `disconnected`:
   * there is no connection, or it was lost before the answer. `full`: too much is queued. `closed`:
   * the socket closed and does not return.
   */
  declare readonly code: "errors" | "timeout" | "disconnected" | "full" | "closed";
  /** The errors of the answer; otherwise empty. */
  declare readonly errors: Errors;
  /** Seconds to wait, if there were too many requests of this type. */
  declare readonly retryAfter: number | undefined;

  constructor(code: RequestError["code"], message: string, errors: Errors = {}, retryAfter?: number) {
    super(message);
    this.name = "RequestError";
    this.code = code;
    this.errors = errors;
    this.retryAfter = retryAfter;
  }
}

/** The server's answer to a message, with the message's `type` and `ref`. */
export interface Answer {
  type?: string;
  ref?: unknown;
  reply?: unknown;
  errors?: Errors;
  /** Seconds to wait, if there were too many messages of this type. */
  retry_after?: number;
}

type Name<T> = keyof T & string;

/** A message with its type. */
export type Message<T, K extends Name<T> = Name<T>> = { [N in K]: { type: N } & T[N] }[K];

/** The reply to a request: `unknown` if `Replies` does not list its type. */
export type Reply<P, K extends string> = K extends keyof P ? P[K] : unknown;

/** The handlers of the client's own events. */
export interface Events<Receives> {
  /** Every message: the value of JSON, or a text, or an `ArrayBuffer`. */
  message: (message: Message<Receives>, info: Info) => void;
  /** Messages of these groups were missed. The values are the new positions; null if there is none. */
  gap: (groups: Record<string, string | null>) => void;
  /**
   * People have come to a group or gone, or have other information: with the first list of a group, and with
   * each change of it. A list that is sent again after a reconnect is compared with the last one.
   */
  presence: (event: Presence) => void;
  /** The socket is open: after each welcome. */
  open: () => void;
  /** The socket is closed and does not return. */
  close: (event: Closed) => void;
  state: (state: State, detail: StateDetail) => void;
  /** The errors of a message that was sent without `ref`, or an exception of `auth()`. */
  error: (error: unknown) => void;
  /**
   * An answer that no `request()` waits for: to a message that `send()` has sent, or one that is late. With
   * a handler for it, such errors do not reach the handlers of `error`.
   */
  answer: (answer: Answer) => void;
}

/** A connection that returns. `connect()` makes it. */
export interface Room<Sends = Anything, Receives = Anything, Replies = Anything> {
  readonly state: State;
  /** The public id of this client; undefined before the first welcome. */
  readonly id: string | undefined;
  /** Who is present, by group: the newest list of each group that tells it. A change makes another object. */
  readonly present: ReadonlyMap<string, People>;
  /**
   * Call a function for each event, or each message with this type.
   *
   * @returns a function that ends this.
   */
  on<E extends keyof Events<Receives>>(event: E, handler: Events<Receives>[E]): () => void;
  on<K extends Exclude<Name<Receives>, keyof Events<Receives>>>(
    type: K,
    handler: (message: Message<Receives, K>, info: Info) => void,
  ): () => void;
  /**
   * Send a message if the socket is open: an object as JSON, anything else as it is.
   *
   * @returns whether it was sent.
   */
  send(message: Message<Sends> | string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob): boolean;
  /**
   * Send a message and return the server's reply to it.
   *
   * @throws RequestError
   */
  request<K extends Name<Sends>>(
    type: K,
    ...rest: Record<never, never> extends Sends[K]
      ? [fields?: Sends[K], options?: RequestOptions]
      : [fields: Sends[K], options?: RequestOptions]
  ): Promise<Reply<Replies, K>>;
  /** Close the socket. It does not return. */
  close(): void;
}

/** Options of `fetch()`: those of the browser's, and a room. */
export interface FetchOptions extends RequestInit {
  /** The room that sends the request. Default: the oldest one of the page that is not closed. */
  room?: { readonly id: string | undefined } | undefined;
}
