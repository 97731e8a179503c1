/* The live page's event stream: what it brings besides rows, and how it comes back when it was away.
   Not htmx's sse extension: the rows are no HTML, and counters are put into the page without replacing what has the focus. */
"use strict";
(() => {
  globalThis.wirepool ??= {};

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };

  /* Numbers, and the classes that say how they stand; the explanation that somebody reads at this moment stays open. */
  const putCounters = (html) => {
    for (const now of parse(html).children) {
      const there = document.getElementById(now.id);
      if (!there) continue;
      if (there.className !== now.className) there.className = now.className;
      there.hidden = now.hidden;
      for (const part of now.querySelectorAll("[data-part]")) {
        const old = there.querySelector(`[data-part="${part.dataset.part}"]`);
        if (old.textContent !== part.textContent) old.textContent = part.textContent;
        if (part.dataset.value !== undefined) old.dataset.value = part.dataset.value;
      }
    }
    document.dispatchEvent(new CustomEvent("wirepool:counters"));
  };

  const swapSession = (html) => {
    const element = document.getElementById(parse(html).firstElementChild?.id ?? "");
    if (!element) return;
    const focused = document.activeElement?.id;
    htmx.swap(element, html, { swapStyle: "outerHTML" });
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus();
  };

  const away = (is) => document.dispatchEvent(new CustomEvent("wirepool:stream", { detail: { away: is } }));

  /* Follow the stream at `address`. `opened` is called each time that it begins (anew), `older` gets the JSON of the packets
     that were there before that, `rows` that of each update; `ended` is called when the sessions have ended. */
  wirepool.stream = (address, { opened, older, rows, ended }) => {
    let source = null;
    let delay = 1000;
    const connect = () => {
      source = new EventSource(address);
      source.addEventListener("open", () => { delay = 1000; away(false); opened(); });
      source.addEventListener("older", (event) => older(event.data));
      source.addEventListener("rows", (event) => rows(event.data));
      source.addEventListener("counters", (event) => putCounters(event.data));
      source.addEventListener("session", (event) => swapSession(event.data));
      source.addEventListener("ended", () => { source.close(); ended(); });
      source.addEventListener("error", () => {
        away(true);
        // The browser tries again by itself after a broken connection, but not after an HTTP error (a restart, a logout).
        if (source.readyState === EventSource.CLOSED) {
          setTimeout(connect, delay);
          delay = Math.min(delay * 2, 15000);
        }
      });
    };
    connect();
    window.addEventListener("pagehide", () => source?.close());
    window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  };
})();
