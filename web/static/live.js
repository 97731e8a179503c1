/* The packet list. Rows come as escaped HTML, batched by the hub; here they are appended once per animation frame, the oldest
   removed beyond a bound, and the tail is followed until the reader scrolls up.
   Not htmx's sse extension: its swap looks for attributes in every new row and took 4.2 ms per 40 rows where this takes 1.2. */
"use strict";
(() => {
  const feed = document.getElementById("feed");
  if (!feed) return;
  const MAX_ROWS = Number(feed.dataset.maxRows);
  const MAX_ROWS_PER_FRAME = 40; // a browser that draws slower than rows come shows the newest, not the past
  const rows = document.getElementById("rows");
  const scroll = document.getElementById("scroll");
  const message = document.getElementById("feed-message");
  const newRows = document.getElementById("new-rows");
  const freeze = document.getElementById("freeze");
  const viewState = document.getElementById("view-state");
  const skippedRows = document.getElementById("skipped");

  let waiting = [];        // fragments not yet in the page
  let waitingRows = 0;
  let following = true;
  let frozen = false;
  let unseen = 0;          // arrived while not following or frozen
  let skipped = 0;         // came, but this browser was too slow to draw them
  let catchingUp = false;  // what waited while the view was frozen is drawn whole
  let scheduled = false;
  let source = null;

  const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 24;

  const tell = () => {
    newRows.hidden = unseen === 0;
    newRows.textContent = `↓ ${unseen > 9999 ? "9999+" : unseen} new`;
    viewState.textContent = frozen ? "view frozen" : following ? "" : "not following";
    skippedRows.hidden = skipped === 0;
    skippedRows.textContent = `${skipped.toLocaleString("en")} rows skipped by this browser`;
  };

  // Forget the oldest waiting rows beyond `bound`, and count them; whether there were any.
  const dropOldest = (bound) => {
    const before = skipped;
    while (waiting.length > 1 && waitingRows - waiting[0].childElementCount >= bound) {
      const rowsOfOne = waiting.shift().childElementCount;
      waitingRows -= rowsOfOne;
      skipped += rowsOfOne;
    }
    return skipped > before;
  };

  const draw = () => {
    scheduled = false;
    if (frozen || waiting.length === 0) return;
    if (following && !catchingUp && dropOldest(MAX_ROWS_PER_FRAME)) tell();
    catchingUp = false;
    // While the reader looks at older rows nothing is removed above them; beyond twice the bound it must be.
    rows.append(...waiting);
    waiting = [];
    waitingRows = 0;
    message.hidden = true;
    const bound = following ? MAX_ROWS : 2 * MAX_ROWS;
    const excess = rows.childElementCount - bound;
    if (excess > 0) {
      const range = document.createRange();
      range.setStart(rows, 0);
      range.setEndBefore(rows.children[excess]);
      range.deleteContents();
    }
    if (following) scroll.scrollTop = scroll.scrollHeight;
  };

  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    // A hidden tab gets no animation frames; it still has to keep its bound.
    // Rows that come below what the reader looks at needn't come at once: a packet that is being opened goes first.
    if (document.hidden || !following) setTimeout(draw, 250); else requestAnimationFrame(draw);
  };

  const follow = () => {
    following = true;
    unseen = frozen ? unseen : 0;
    scroll.scrollTop = scroll.scrollHeight;
    tell();
  };

  const setFrozen = (value) => {
    frozen = value;
    freeze.setAttribute("aria-pressed", String(frozen));
    freeze.classList.toggle("toggled", frozen);
    freeze.textContent = frozen ? "▶ Unfreeze view" : "❄ Freeze view";
    feed.classList.toggle("frozen", frozen);
    if (!frozen) { unseen = 0; following = true; catchingUp = true; schedule(); }
    tell();
  };

  scroll.addEventListener("scroll", () => {
    const end = atEnd();
    if (end === following) return;
    following = end;
    if (end && !frozen) unseen = 0;
    tell();
  }, { passive: true });
  // Whoever reads one packet doesn't want the list to run away under it.
  feed.addEventListener("wirepool:hold", () => { following = false; tell(); });
  newRows.addEventListener("click", () => { if (frozen) setFrozen(false); follow(); scroll.focus(); });
  freeze.addEventListener("click", () => setFrozen(!frozen));
  document.getElementById("clear").addEventListener("click", () => {
    rows.replaceChildren();
    waiting = [];
    waitingRows = unseen = skipped = 0;
    message.textContent = "List emptied. Waiting for packets…";
    message.hidden = false;
    tell();
  });
  scroll.addEventListener("keydown", (event) => {
    if (event.key === "End") { event.preventDefault(); follow(); }
    if (event.key === "Home") { event.preventDefault(); following = false; scroll.scrollTop = 0; tell(); }
  });

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };

  const onRows = (event) => {
    const fragment = parse(event.data);
    const count = fragment.childElementCount;
    waiting.push(fragment);
    waitingRows += count;
    dropOldest(MAX_ROWS);
    if (frozen || !following) { unseen += count; tell(); }
    schedule();
  };

  const swapSession = (html) => {
    const element = document.getElementById(parse(html).firstElementChild?.id ?? "");
    if (!element) return;
    const focused = document.activeElement?.id;
    htmx.swap(element, html, { swapStyle: "outerHTML" });
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus();
  };

  let delay = 1000;
  const connect = () => {
    source = new EventSource(feed.dataset.stream);
    source.addEventListener("open", () => {
      delay = 1000;
      document.dispatchEvent(new CustomEvent("wirepool:stream", { detail: { away: false } }));
    });
    source.addEventListener("rows", onRows);
    source.addEventListener("counters", (event) => { document.getElementById("live-counters").innerHTML = event.data; });
    source.addEventListener("session", (event) => swapSession(event.data));
    source.addEventListener("ended", () => {
      source.close();
      message.textContent = "This session has ended. Its packets are in the export.";
      message.hidden = rows.childElementCount > 0;
    });
    source.addEventListener("error", () => {
      document.dispatchEvent(new CustomEvent("wirepool:stream", { detail: { away: true } }));
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
})();
