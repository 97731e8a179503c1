/* Choosing a packet of the list and opening it beside the list. The hub makes the pane (/live/packet); packet_view.js is its inside.
   A click or Enter opens; with the pane open the arrow keys go from packet to packet; Escape closes.
   The keyboard's focus stays with the list, which names its chosen row: rows out of sight are no elements. */
"use strict";
(() => {
  const pane = document.getElementById("packet");
  if (!pane || !globalThis.wirepool?.live) return;
  const { scroll, store, list, hold, release, follow, total, show } = wirepool.live;
  let focusPane = false;   // who opens by Enter wants to read there

  const chosenAt = () => (list.chosen() < 0 ? -1 : store.positionOf(list.chosen()));

  const choose = (position) => {
    const row = store.at(position);
    if (!row) return null;
    hold(); // whoever reads one packet doesn't want the list to run away under it
    list.choose(row.serial);
    show(position);
    return row;
  };

  const address = (observation, heard) => {
    const here = new URL(location.href);
    if (observation) {
      here.searchParams.set("packet", observation);
      here.searchParams.set("heard", heard);
    } else {
      here.searchParams.delete("packet");
      here.searchParams.delete("heard");
    }
    history.replaceState(null, "", here);
  };

  const load = (observation, heard) => {
    const query = new URLSearchParams({ observation, heard });
    htmx.ajax("GET", `/live/packet?${query}`, { source: pane, target: pane, swap: "innerHTML" });
    address(observation, heard);
  };
  const open = (row) => { if (row) load(row.observation, row.heard); };

  // A class and not :has(), which would be asked anew with every row that comes.
  const showPane = (open) => {
    pane.hidden = !open;
    document.body.classList.toggle("with-packet", open);
  };

  const close = () => {
    if (pane.hidden) return;
    showPane(false);
    release();
    pane.replaceChildren();
    address(null);
    scroll.focus();
  };

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== pane) return;
    showPane(true);
    pane.dispatchEvent(new CustomEvent("wirepool:packet", { detail: { focus: focusPane } }));
    focusPane = false;
  });
  // The pane takes a part of the list's height: the chosen row must not be behind it.
  scroll.addEventListener("wirepool:resized", () => {
    if (!pane.hidden && chosenAt() >= 0) show(chosenAt());
  });
  pane.addEventListener("click", (event) => { if (event.target.closest("[data-close-packet]")) close(); });

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
      focusPane = true;
      open(store.at(at));
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
    close();
  });

  // An address that names a packet shows it again: after a reload, or sent to somebody else.
  const named = new URLSearchParams(location.search);
  if (named.has("packet")) load(named.get("packet"), named.get("heard") ?? "");
})();
