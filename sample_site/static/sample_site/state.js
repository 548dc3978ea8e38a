/* Show the state of the socket that this page shares with its streams, or with htmx. */

import { showState } from "./page.js";

const { url } = document.getElementById("state").dataset;
showState(wsmux.connect(url, { shared: true }));
