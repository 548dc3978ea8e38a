// When a page is told that it has missed messages: not all pages at once, and not too often.

const JITTER = 5000;
const REST = 30_000;

type Groups = Record<string, string | null>;

/** Delays gaps, and merges those of one group. */
export class Gaps {
  private _raise: (groups: Groups) => void;
  declare private _timer: ReturnType<typeof setTimeout> | undefined;
  // By group: when it is due, and the position.
  private _due: Map<string, { at: number; position: string | null }> = new Map();
  // By group: until when it rests.
  private _rest: Map<string, number> = new Map();

  constructor(raise: (groups: Groups) => void) {
    this._raise = raise;
  }

  add(groups: Groups): void {
    const soon = performance.now() + Math.random() * JITTER;
    for (const [name, position] of Object.entries(groups)) {
      const at = this._due.get(name)?.at ?? Math.max(soon, this._rest.get(name) ?? 0);
      this._due.set(name, { at, position });
    }
    this._resume();
  }

  /** Set the timer. */
  _resume(): void {
    this._pause();
    const next = Math.min(...[...this._due.values()].map((due) => due.at));
    if (next < Infinity) this._timer = setTimeout(() => this._fire(next), next - performance.now());
  }

  /** Keep what is due, without a timer. */
  _pause(): void {
    clearTimeout(this._timer);
  }

  /** Raise all. */
  _flush(): void {
    this._fire(Infinity);
  }

  /** Raise what is due. */
  private _fire(now: number): void {
    const groups: [string, string | null][] = [];
    for (const [name, { at, position }] of this._due) {
      if (at > now) continue;
      groups.push([name, position]);
      this._due.delete(name);
      this._rest.set(name, now + REST);
    }
    this._resume();
    if (groups.length) this._raise(Object.fromEntries(groups));
  }
}
