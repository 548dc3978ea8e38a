// The shared worker: one socket for all pages with one URL and one user.

import { Pages } from "./pages.ts";

const pages = new Pages();

(self as unknown as { onconnect: (event: MessageEvent) => void }).onconnect = (event) => {
  pages.add(event.ports[0]!);
};
