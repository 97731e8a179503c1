/* The inside of an opened packet: a tree of fields and the packet's bytes. A field marks its bytes, a byte its field.
   Bytes are text in rows of 16; a row that is marked is written anew in pieces, so that no byte needs an element of its own. */
"use strict";
(() => {
  const pane = document.getElementById("packet");
  if (!pane) return;
  const ROW = 16; // bytes of a line
  const openLayers = new Map(); // name of a line → whether the reader left it open, for the next packet

  let tree, bytes, byteRows, items, status; // of the packet that is shown
  let current = null;   // the marked line of the tree
  let cursor = -1;      // the byte the reader is at; -1: none
  let marked = [0, 0];  // [first, behind] of the marked bytes

  const level = (item) => Number(item.getAttribute("aria-level"));
  const range = (item) => [Number(item.dataset.offset), Number(item.dataset.offset) + Number(item.dataset.length)];
  const shown = () => items.filter((item) => !item.hidden);
  const parentOf = (item) => {
    for (let at = items.indexOf(item) - 1; at >= 0; at--) if (level(items[at]) < level(item)) return items[at];
    return null;
  };

  /* Bytes */
  const { hexAt, paintRow } = wirepool.packetBytes;
  const rowsOf = ([first, behind]) => byteRows.slice(Math.floor(first / ROW), Math.max(0, Math.ceil(behind / ROW)));

  const mark = (next, at) => {
    const touched = new Set([...rowsOf(marked), ...rowsOf(next)]);
    for (const place of [cursor, at]) if (place >= 0 && byteRows[Math.floor(place / ROW)]) touched.add(byteRows[Math.floor(place / ROW)]);
    marked = next;
    cursor = at;
    touched.forEach((row) => paintRow(row, marked, cursor));
  };

  /* Tree */
  const setExpanded = (item, open) => {
    item.setAttribute("aria-expanded", String(open));
    if (level(item) === 1) openLayers.set(item.querySelector(".n").textContent, open);
    const closed = []; // levels of closed lines above the one looked at
    for (let at = items.indexOf(item); at < items.length; at++) {
      const one = items[at];
      if (one !== item && level(one) <= level(item)) break;
      while (closed.length && closed.at(-1) >= level(one)) closed.pop();
      if (one !== item) one.hidden = closed.length > 0;
      if (one.getAttribute("aria-expanded") === "false") closed.push(level(one));
    }
  };

  const select = (item) => {
    if (current) { current.setAttribute("aria-selected", "false"); current.tabIndex = -1; }
    current = item;
    item.setAttribute("aria-selected", "true");
    item.tabIndex = 0;
  };

  const chooseField = (item, focus = true) => {
    select(item);
    if (focus) item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    mark(range(item), -1);
    rowsOf(marked)[0]?.scrollIntoView({ block: "nearest" });
  };

  const chooseByte = (at) => {
    let best = null;
    let least = Infinity;
    for (const item of items) { // of those with the same bytes the deepest wins: it comes later
      const [first, behind] = range(item);
      if (at >= first && at < behind && behind - first <= least) { best = item; least = behind - first; }
    }
    if (!best) { mark([at, at + 1], at); status.textContent = `Byte ${at}`; return; }
    for (let above = parentOf(best); above; above = parentOf(above)) {
      if (above.getAttribute("aria-expanded") === "false") setExpanded(above, true);
    }
    select(best);
    best.scrollIntoView({ block: "nearest" });
    mark(range(best), at);
    byteRows[Math.floor(at / ROW)]?.scrollIntoView({ block: "nearest" });
    const value = best.querySelector(".v")?.textContent ?? "";
    status.textContent = `Byte ${at}: ${best.querySelector(".n").textContent} ${value}`;
  };

  const onTreeKey = (event) => {
    const all = shown();
    const at = all.indexOf(current);
    const expanded = current?.getAttribute("aria-expanded");
    let next = null;
    switch (event.key) {
      case "ArrowDown": next = all[at + 1]; break;
      case "ArrowUp": next = all[at - 1]; break;
      case "Home": next = all[0]; break;
      case "End": next = all.at(-1); break;
      case "ArrowRight":
        if (expanded === "false") setExpanded(current, true); else if (expanded === "true") next = all[at + 1];
        break;
      case "ArrowLeft":
        if (expanded === "true") setExpanded(current, false); else if (current) next = parentOf(current);
        break;
      case "Enter": case " ":
        if (expanded) setExpanded(current, expanded === "false");
        break;
      default: return;
    }
    event.preventDefault();
    if (next) chooseField(next);
  };

  const onTreeClick = (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item) return;
    const expanded = item.getAttribute("aria-expanded");
    if (expanded && (item === current || event.clientX - item.getBoundingClientRect().left < 6 + 14 * level(item))) setExpanded(item, expanded === "false");
    chooseField(item);
  };

  const byteCount = () => byteRows.reduce((sum, row) => sum + row.children[2].textContent.length, 0);
  const onByteKey = (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: ROW, ArrowUp: -ROW };
    const total = byteCount();
    if (!total) return;
    if (event.key in steps) {
      event.preventDefault();
      const from = cursor < 0 ? marked[0] - steps[event.key] : cursor;
      const to = from + steps[event.key];
      if (to >= 0 && to < total) chooseByte(to);
    } else if (event.key === "Enter" && current) {
      event.preventDefault();
      current.focus();
    }
  };

  const onByteClick = (event) => {
    const cell = event.target.closest("code");
    if (!cell || String(getSelection())) return;
    const text = document.createRange();
    text.selectNodeContents(cell); // the cell itself is wider than the text of a last row
    const box = text.getBoundingClientRect();
    const letter = Math.floor((event.clientX - box.left) / (box.width / cell.textContent.length));
    const count = cell.parentElement.children[2].textContent.length;
    const column = cell.classList.contains("t") ? letter : Math.floor((letter - (letter > hexAt(8) - 2 ? 1 : 0)) / 3);
    chooseByte(Number(cell.parentElement.dataset.offset) + Math.max(0, Math.min(count - 1, column)));
  };

  pane.addEventListener("wirepool:packet", (event) => {
    if (bytes?.isConnected) mark([0, 0], -1); // the same packet with another tree
    tree = pane.querySelector("[role=tree]");
    bytes = pane.querySelector(".bytes");
    if (!tree) {
      items = [];
      current = null;
      pane.querySelector("button")?.focus();
      return;
    }
    byteRows = [...bytes.querySelectorAll(".byte-row")];
    items = [...tree.querySelectorAll("[role=treeitem]")];
    status = pane.querySelector("#byte-status");
    current = null;
    cursor = -1;
    marked = [0, 0];
    for (const item of items) {
      const wanted = level(item) === 1 ? openLayers.get(item.querySelector(".n").textContent) : undefined;
      if (wanted !== undefined && item.hasAttribute("aria-expanded")) setExpanded(item, wanted);
    }
    tree.addEventListener("keydown", onTreeKey);
    tree.addEventListener("click", onTreeClick);
    bytes.addEventListener("keydown", onByteKey);
    bytes.addEventListener("click", onByteClick);
    if (!items.length) return;
    items[0].tabIndex = 0;
    if (event.detail.focus) chooseField(items[0]); else current = items[0];
  });
})();
