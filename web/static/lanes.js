/* Going through the lanes by keyboard: up and down from packet to packet, left and right from place to place, Enter opens the packet.
   What is read out stands in the table below the picture: the two can't differ. */
"use strict";
(() => {
  const box = document.getElementById("lanes");
  const pane = globalThis.wirepool?.pane;
  const status = document.getElementById("lane-status");
  const table = document.getElementById("lane-table");
  if (!box || !table || !pane) return;
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const drawn = [...box.querySelectorAll(".packet-row")];
  let row = -1;
  let lane = 0; // from 0; the table's cells of places begin at 2

  const cell = () => rows[row]?.cells[lane + 2];
  const paint = () => {
    drawn.forEach((one, at) => one.classList.toggle("is-chosen", at === row));
    const item = cell();
    if (!item) { status.textContent = ""; return; }
    const [what, way] = [...rows[row].cells].map((one) => one.textContent.trim());
    status.textContent = `${what}, ${way}. ${heads[lane + 2]}: ${item.textContent.trim().replace(/\s+/g, " ")}`;
    drawn[row]?.scrollIntoView({ block: "nearest" });
  };

  const open = (observation, heard) => { if (observation) pane.open(observation, heard); };

  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const lanes = heads.length - 2;
    switch (event.key) {
      case "ArrowDown": row = Math.min(rows.length - 1, row + 1); break;
      case "ArrowUp": row = Math.max(0, row - 1); break;
      case "ArrowRight": lane = Math.min(lanes - 1, lane + 1); row = Math.max(row, 0); break;
      case "ArrowLeft": lane = Math.max(0, lane - 1); row = Math.max(row, 0); break;
      case "Enter": event.preventDefault(); open(cell()?.dataset.observation, cell()?.dataset.heard ?? ""); return;
      default: return;
    }
    event.preventDefault();
    paint();
  });
  box.addEventListener("click", (event) => {
    const found = event.target.closest(".packet-row");
    if (!found) return;
    row = Number(found.dataset.row);
    const dots = [...found.querySelectorAll("circle.dot")];
    const at = dots.indexOf(event.target);
    const places = [...rows[row].cells].slice(2).map((one, number) => (one.dataset.observation ? number : -1)).filter((number) => number >= 0);
    const backwards = rows[row].cells[1].textContent.trim() === "back";
    if (at >= 0) lane = (backwards ? [...places].reverse() : places)[at] ?? lane; else if (!cell()?.dataset.observation) lane = places[0] ?? lane;
    paint();
    open(cell()?.dataset.observation, cell()?.dataset.heard ?? "");
  });

  pane.element.addEventListener("wirepool:closed", () => box.focus());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || pane.element.hidden || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    pane.close();
  });
})();
