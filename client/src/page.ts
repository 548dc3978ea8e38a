// The events of a page that concern its connections.

/** The name of this page: a shared socket has several. Each load has another one. */
export const PAGE: string = Math.random().toString(36).slice(2, 12);

/** What a page calls. */
export interface Visit {
  /** The page may have slept: look at once. */
  wake(): void;
  /** The page is left. It may come back from the browser's cache. This is called twice. */
  _hide(): void;
  /** The page has come back. */
  _show(): void;
  /** The page may be discarded without a further event. */
  _save(): void;
}

/**
 * Call methods upon events of the page; outside a page, do nothing.
 *
 * @returns a function that ends this.
 */
export function watch(visit: Visit): () => void {
  const controller = new AbortController();
  if (globalThis.document) {
    const listen = (target: EventTarget, name: string, callback: () => void): void =>
      target.addEventListener(name, callback, { signal: controller.signal });
    listen(window, "online", () => visit.wake());
    listen(window, "pageshow", () => visit._show());
    // When a tab is closed, Firefox interrupts the code that runs at some moment. It goes on with the next
    // listener.
    listen(window, "pagehide", () => visit._hide());
    listen(window, "pagehide", () => visit._hide());
    listen(document, "visibilitychange", () => (document.hidden ? visit._save() : visit.wake()));
  }
  return () => controller.abort();
}

/** What the next page needs to continue. */
export interface Stored {
  id?: string | undefined;
  first?: string | undefined;
  positions?: [string, string][];
}

/** Return what an earlier page has stored. */
export function load(key: string | undefined): Stored {
  try {
    return Object(JSON.parse(key! && sessionStorage.getItem(key!)!)) as Stored;
  } catch {
    return {}; // there is no key, no storage, or it is closed to this page
  }
}

export function save(key: string | undefined, value: Stored | undefined): void {
  try {
    if (key && value) sessionStorage.setItem(key, JSON.stringify(value));
    else if (key) sessionStorage.removeItem(key);
  } catch {
    // There is no storage, it is full, or it is closed to this page.
  }
}
