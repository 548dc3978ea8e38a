"use strict";

// Requests new tables every two seconds while the page is visible.
{
    const EVERY = 2000;
    const LONGEST_PAUSE = 30000;

    const tables = document.getElementById("wsmux-overview");
    const state = document.getElementById("wsmux-state");
    let pause = 500;
    let timer = 0;

    // Do not replace the tables while the user has selected text or rows, or focused a link.
    function isInUse() {
        const selection = getSelection();
        const isMarked =
            (!selection.isCollapsed && tables.contains(selection.anchorNode)) ||
            tables.querySelector("input:checked");
        return isMarked || tables.contains(document.activeElement);
    }

    function connect() {
        const socket = new WebSocket(tables.dataset.url);
        let isAnswered = true;

        function ask() {
            clearTimeout(timer);
            if (isAnswered && !document.hidden && socket.readyState === WebSocket.OPEN) {
                isAnswered = false;
                socket.send(tables.dataset.query);
            }
        }

        socket.onopen = () => {
            pause = 500;
            ask();
        };
        socket.onmessage = (event) => {
            isAnswered = true;
            if (isInUse()) {
                state.textContent = "Paused while part of the tables is selected.";
            } else {
                tables.innerHTML = event.data;
                state.textContent = "Live.";
            }
            timer = setTimeout(ask, EVERY);
        };
        socket.onclose = (event) => {
            document.removeEventListener("visibilitychange", ask);
            if (event.code === 1008 || event.code === 4401) {
                state.textContent = "Not live: sign in again.";
                return;
            }
            state.textContent = "Not live: reconnecting.";
            setTimeout(connect, pause * (0.5 + Math.random() / 2));
            pause = Math.min(pause * 2, LONGEST_PAUSE);
        };
        document.addEventListener("visibilitychange", ask);
    }

    connect();
}
