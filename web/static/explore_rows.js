/* Choosing a packet of the result and opening it beside the list (packet_pane.js): a click or Enter opens; arrow keys go from
   packet to packet, also with the pane open; Escape closes. */
"use strict";
(() => {
  const pane = globalThis.wirepool?.pane;
  const rows = document.getElementById("rows");
  const scroll = document.getElementById("scroll");
  if (!pane || !rows || !scroll) return;
  let chosen = null;

  const choose = (row) => {
    if (!row) return;
    chosen?.removeAttribute("aria-selected");
    chosen = row;
    row.id ||= `result-${[...rows.children].indexOf(row)}`;
    row.setAttribute("aria-selected", "true");
    scroll.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
  };
  const open = (row, focus = false) => { if (row) pane.open(row.dataset.observation, row.dataset.heard, { focus }); };

  rows.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row || String(getSelection())) return; // text was marked, to be copied
    scroll.focus({ preventScroll: true });
    choose(row);
    open(row);
  });
  scroll.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" && chosen) {
      event.preventDefault();
      open(chosen, true); // who opens by Enter wants to read there
      return;
    }
    const next = {
      ArrowDown: () => (chosen ? chosen.nextElementSibling : rows.firstElementChild),
      ArrowUp: () => chosen?.previousElementSibling,
      Home: () => rows.firstElementChild,
      End: () => rows.lastElementChild,
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const row = next();
    choose(row);
    if (row && !pane.element.hidden) open(row);
  });
  pane.element.addEventListener("wirepool:closed", () => scroll.focus());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || pane.element.hidden || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    pane.close();
  });

  // An address that names a packet shows it again: after a reload, or sent to somebody else.
  const named = new URLSearchParams(location.search);
  if (named.has("packet")) pane.open(named.get("packet"), named.get("heard") ?? "");
})();
