/* Choosing a packet of the list and opening it beside the list. The hub makes the pane (/live/packet); packet_view.js is its inside.
   A click or Enter opens; with the pane open the arrow keys go from packet to packet; Escape closes. */
"use strict";
(() => {
  const pane = document.getElementById("packet");
  const rows = document.getElementById("rows");
  const scroll = document.getElementById("scroll");
  const feed = document.getElementById("feed");
  if (!pane || !rows) return;
  let selected = null;     // the chosen row; it may have left the list since
  let focusPane = false;   // who opens by Enter wants to read there

  const choose = (row) => {
    if (selected && selected !== row) {
      selected.removeAttribute("aria-selected");
      selected.tabIndex = -1;
    }
    selected = row;
    row.setAttribute("aria-selected", "true");
    row.tabIndex = 0;
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
    feed.dispatchEvent(new CustomEvent("wirepool:hold"));
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
  const open = (row) => load(row.dataset.observation, row.dataset.heard);

  // A class and not :has(), which would be asked anew with every row that comes.
  const show = (open) => {
    pane.hidden = !open;
    document.body.classList.toggle("with-packet", open);
  };

  const close = () => {
    if (pane.hidden) return;
    show(false);
    pane.replaceChildren();
    address(null);
    if (selected?.isConnected) selected.focus({ preventScroll: true }); else scroll.focus();
  };

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== pane) return;
    show(true);
    if (selected?.isConnected) selected.scrollIntoView({ block: "nearest" });
    pane.dispatchEvent(new CustomEvent("wirepool:packet", { detail: { focus: focusPane } }));
    focusPane = false;
  });
  pane.addEventListener("click", (event) => { if (event.target.closest("[data-close-packet]")) close(); });

  rows.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row || String(getSelection())) return; // text was marked, to be copied
    choose(row);
    open(row);
  });

  const step = (forward) => {
    if (!selected?.isConnected) return rows.lastElementChild;
    return forward ? selected.nextElementSibling : selected.previousElementSibling;
  };
  scroll.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const row = step(event.key === "ArrowDown");
      if (!row) return;
      choose(row);
      if (!pane.hidden) open(row);
    } else if (event.key === "Enter" && selected?.isConnected) {
      event.preventDefault();
      focusPane = true;
      open(selected);
    }
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
