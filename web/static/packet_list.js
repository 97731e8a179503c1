/* Choosing a packet of the list and opening it beside the list. packet_pane.js is the pane.
   A click or Enter opens; with the pane open the arrow keys go from packet to packet; Escape closes.
   The keyboard's focus stays with the list, which names its chosen row: rows out of sight are no elements. */
"use strict";
(() => {
  if (!globalThis.wirepool?.live) return;
  const pane = wirepool.pane.element;
  const { scroll, store, list, hold, release, follow, total, show } = wirepool.live;

  const chosenAt = () => (list.chosen() < 0 ? -1 : store.positionOf(list.chosen()));

  const choose = (position) => {
    const row = store.at(position);
    if (!row) return null;
    hold(); // whoever reads one packet doesn't want the list to run away under it
    list.choose(row.serial);
    show(position);
    return row;
  };

  const open = (row, focus = false) => { if (row) wirepool.pane.open(row.observation, row.heard, { focus }); };

  pane.addEventListener("wirepool:closed", () => { release(); scroll.focus(); });
  // The pane takes a part of the list's height: the chosen row must not be behind it.
  scroll.addEventListener("wirepool:resized", () => {
    if (!pane.hidden && chosenAt() >= 0) show(chosenAt());
  });

  document.getElementById("rows").addEventListener("click", (event) => {
    const row = list.rowOf(event.target);
    if (!row || String(getSelection())) return; // text was marked, to be copied
    scroll.focus({ preventScroll: true });
    open(choose(store.positionOf(row.serial)));
  });

  /* Where a key leads from a position (-1: nothing is chosen); null: nowhere, the key keeps its own meaning. */
  const target = (key, at) => {
    const last = total() - 1;
    switch (key) {
      case "ArrowDown": return at < 0 ? list.end() - 1 : Math.min(last, at + 1);
      case "ArrowUp": return at < 0 ? list.end() - 1 : Math.max(0, at - 1);
      case "PageDown": return at < 0 ? null : Math.min(last, at + list.inSight() - 1);
      case "PageUp": return at < 0 ? null : Math.max(0, at - list.inSight() + 1);
      case "Home": return 0;
      default: return null;
    }
  };

  scroll.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = chosenAt();
    if (event.key === "End") {
      event.preventDefault();
      if (!pane.hidden) open(choose(total() - 1));
      else { list.choose(-1); follow(); }
      return;
    }
    if (event.key === "Enter" && at >= 0) {
      event.preventDefault();
      open(store.at(at), true); // who opens by Enter wants to read there
      return;
    }
    const to = target(event.key, at);
    if (to === null || total() === 0) return;
    event.preventDefault();
    if (event.key === "Home" && at < 0) { hold(); show(0); return; }
    if (to === at) return;
    const row = choose(to);
    if (!pane.hidden) open(row);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || pane.hidden || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    wirepool.pane.close();
  });

  // An address that names a packet shows it again: after a reload, or sent to somebody else.
  const named = new URLSearchParams(location.search);
  if (named.has("packet")) wirepool.pane.open(named.get("packet"), named.get("heard") ?? "");
})();
