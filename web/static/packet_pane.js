/* The pane of an opened packet: fetching it, showing it beside the list, the tree by tshark, closing. What is in it is the hub's
   HTML; packet_view.js makes it walkable. Fetched by itself and not by htmx, which looks through 500 elements for attributes that
   none of them has while somebody waits. */
"use strict";
(() => {
  globalThis.wirepool ??= {};
  const pane = document.getElementById("packet");
  if (!pane) return;
  let wanted = null;   // the address that is to be shown next
  let loading = false;
  let focusNext = false;
  let closed = true;

  // A class and not :has(), which would be asked anew with every row that comes.
  const show = (is) => {
    pane.hidden = !is;
    document.body.classList.toggle("with-packet", is);
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

  /* The hub's HTML as nodes, or null: then the page has said why. */
  const get = async (path) => {
    try {
      const answer = await fetch(path, { headers: { accept: "text/html, application/json", "hx-request": "true" } });
      const text = await answer.text();
      if (!answer.ok) {
        document.dispatchEvent(new CustomEvent("wirepool:refused", { detail: { status: answer.status, text } }));
        return null;
      }
      const template = document.createElement("template");
      template.innerHTML = text;
      return template.content;
    } catch {
      document.dispatchEvent(new CustomEvent("wirepool:refused", { detail: { status: 0, text: "" } }));
      return null;
    }
  };

  const tellView = (focus) => pane.dispatchEvent(new CustomEvent("wirepool:packet", { bubbles: true, detail: { focus } }));

  /* Of several packets asked for while one is on its way only the last is fetched. */
  const load = async () => {
    if (loading) return;
    loading = true;
    while (wanted) {
      const path = wanted;
      wanted = null;
      const nodes = await get(path);
      if (nodes && !closed) {
        pane.replaceChildren(nodes);
        show(true);
        tellView(focusNext);
        focusNext = false;
      }
    }
    loading = false;
  };
  const open = (observation, heard, { focus = false } = {}) => {
    address(observation, heard);
    closed = false;
    focusNext ||= focus;
    wanted = `/live/packet?${new URLSearchParams({ observation, heard })}`;
    load();
  };

  const close = () => {
    if (closed) return;
    closed = true;
    wanted = null;
    show(false);
    pane.replaceChildren();
    address(null);
    pane.dispatchEvent(new CustomEvent("wirepool:closed"));
  };

  /* tshark runs when this button is pressed and never otherwise; pressed again, our own tree is back. */
  let own = null;
  const toggleTshark = async (button) => {
    const panes = pane.querySelector(".packet-panes");
    if (button.getAttribute("aria-pressed") === "true") {
      panes.firstElementChild.replaceWith(own);
      button.setAttribute("aria-pressed", "false");
      button.classList.remove("toggled");
      tellView(false);
      return;
    }
    button.disabled = true;
    const nodes = await get(button.dataset.tshark);
    button.disabled = false;
    if (!nodes || !panes.isConnected) return;
    own = panes.firstElementChild;
    own.replaceWith(nodes);
    button.setAttribute("aria-pressed", "true");
    button.classList.add("toggled");
    tellView(false);
    button.focus();
  };

  pane.addEventListener("click", (event) => {
    if (event.target.closest("[data-close-packet]")) close();
    const tshark = event.target.closest("[data-tshark]");
    if (tshark) toggleTshark(tshark);
  });

  wirepool.pane = { element: pane, open, close };
})();
