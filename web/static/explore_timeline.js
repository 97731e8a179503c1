/* Choosing a time on the timeline: by dragging over it, or with the arrow keys from bar to bar (Shift marks, Enter shows, Escape forgets). */
"use strict";
(() => {
  const box = document.getElementById("timeline");
  const marked = document.getElementById("timeline-marked");
  const status = document.getElementById("timeline-status");
  const bars = [...document.querySelectorAll("#timeline-bars tr")];
  if (!box || !bars.length) return;
  let anchor = -1;   // the bar where the mark began
  let cursor = -1;   // the bar the reader is at
  let dragging = false;

  const cells = (bar) => [...bar.children].map((cell) => cell.textContent);
  const paint = () => {
    if (cursor < 0) { marked.setAttribute("width", "0"); status.textContent = ""; return; }
    const [first, last] = [Math.min(anchor, cursor), Math.max(anchor, cursor)].map((number) => bars[number].dataset);
    const end = Number(last.x) + Number(last.width);
    marked.setAttribute("x", `${first.x}%`);
    marked.setAttribute("width", `${end - Number(first.x)}%`);
    const [since] = cells(bars[Math.min(anchor, cursor)]);
    const [, until, packets] = cells(bars[Math.max(anchor, cursor)]);
    status.textContent = anchor === cursor ? `${since} to ${until}: ${packets} packets` : `${since} to ${until}. Enter shows this time.`;
  };

  const go = () => {
    if (cursor < 0) return;
    const [first, last] = [Math.min(anchor, cursor), Math.max(anchor, cursor)].map((number) => bars[number].dataset);
    const here = new URL(location.href);
    for (const name of ["last", "packet", "heard"]) here.searchParams.delete(name);
    here.searchParams.set("since", first.since);
    here.searchParams.set("until", last.until);
    location.assign(here);
  };

  const at = (event) => {
    const frame = box.getBoundingClientRect();
    const x = 100 * (event.clientX - frame.left) / frame.width;
    const found = bars.findIndex((bar) => x < Number(bar.dataset.x) + Number(bar.dataset.width));
    return found < 0 ? bars.length - 1 : found;
  };

  box.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    dragging = true;
    box.setPointerCapture(event.pointerId);
    anchor = cursor = at(event);
    paint();
  });
  box.addEventListener("pointermove", (event) => {
    if (!dragging) return;
    cursor = at(event);
    paint();
  });
  box.addEventListener("pointerup", () => {
    if (!dragging) return;
    dragging = false;
    if (anchor !== cursor) go(); // a click alone only shows what is there
  });
  box.addEventListener("pointercancel", () => { dragging = false; cursor = anchor = -1; paint(); });

  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -bars.length, End: bars.length };
    if (event.key in steps) {
      event.preventDefault();
      const from = cursor < 0 ? (steps[event.key] < 0 ? bars.length : -1) : cursor;
      cursor = Math.max(0, Math.min(bars.length - 1, from + steps[event.key]));
      if (!event.shiftKey || anchor < 0) anchor = cursor;
      paint();
    } else if (event.key === "Enter") {
      event.preventDefault();
      go();
    } else if (event.key === "Escape" && cursor >= 0) {
      event.preventDefault();
      cursor = anchor = -1;
      paint();
    }
  });
})();
