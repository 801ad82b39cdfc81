"use strict";
// Asks the server that the page came from for newer payloads, while the page is looked at.
(function (treepo) {
  const EVERY_MS = 3000;
  const LONGEST_MS = 60000;

  // The newest payload and its mark, or null where the page has it already.
  async function newer(mark) {
    const headers = mark === null ? {} : { "If-None-Match": mark };
    const response = await fetch("/payload", { headers, cache: "no-store" });
    if (response.status === 304) return null;
    if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
    return { mark: response.headers.get("ETag"), payload: await response.json() };
  }

  function visible() {
    if (!document.hidden) return Promise.resolve();
    return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }

  function pause(milliseconds) {
    return new Promise((resolve) => setTimeout(resolve, milliseconds));
  }

  // Calls onPayload(payload) with each new payload, and onState(text) with "" or why there is none at the moment.
  async function start(onPayload, onState = () => {}) {
    let mark = null;
    let wait = EVERY_MS;
    for (;;) {
      await visible();
      try {
        const found = await newer(mark);
        if (found !== null) {
          // Marked as shown only once it is: one that cannot be shown is told of, and asked for again.
          onPayload(found.payload);
          mark = found.mark;
        }
        wait = EVERY_MS;
        onState("");
      } catch (error) {
        wait = Math.min(2 * wait, LONGEST_MS);
        onState(`not up to date: ${error.message}`);
      }
      await pause(wait);
    }
  }

  treepo.live = { start };
})((globalThis.treepo ??= {}));
