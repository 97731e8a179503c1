/* The part of the list that is in sight, and a little around it: the only rows that are elements. They stand in reading order in
   one box that is moved as a whole; a row that leaves at one end comes back at the other with another text. */
"use strict";
(() => {
  globalThis.wirepool ??= {};
  const ROW_PX = 19;   // --row in live.css
  const OVERSCAN = 8;  // rows made beyond each edge, so that a small step of the wheel finds them ready
  const CELLS = ["c-time", "c-agent", "c-interface", "c-source", "c-destination", "c-protocol", "c-length number", "c-info"];

  const pad = (number) => String(number).padStart(2, "0");
  const dateOf = (time) => new Date(Number(time.padStart(10, "0").slice(0, -9)) * 1000);
  const clock = (time) => {
    const date = dateOf(time);
    return `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}:${pad(date.getUTCSeconds())}.${time.padStart(9, "0").slice(-9)}`;
  };
  const texts = (row) => [
    clock(row.time), row.agent, row.interface, row.source, row.destination, row.protocol, String(row.length), row.info,
  ];

  const make = () => {
    const element = document.createElement("div");
    element.setAttribute("role", "row");
    const cells = CELLS.map((name, at) => {
      const cell = document.createElement("div");
      cell.className = name;
      cell.setAttribute("role", "gridcell");
      cell.setAttribute("aria-colindex", String(at + 1));
      cell.append("");
      return cell;
    });
    element.append(...cells);
    return { element, letters: cells.map((cell) => cell.firstChild), row: null, position: -1 };
  };

  /* scroll: the box that scrolls, the grid; space: as high as all rows; rows: the box in it that is moved;
     head: the line of titles that covers the upper edge; store: a RowStore. */
  wirepool.rowWindow = ({ scroll, space, rows, head, store }) => {
    let shown = [];          // what make() made, in the order of the rows
    const spare = [];
    const made = new WeakMap(); // element → its entry
    let first = 0;           // position of shown[0]
    let total = 0;           // rows that `space` is high for
    let chosen = -1;         // serial
    let boxHeight = scroll.clientHeight;
    let headHeight = head.offsetHeight;

    const inSight = () => Math.max(1, Math.floor((boxHeight - headHeight) / ROW_PX));

    const mark = (entry) => {
      const is = entry.row.serial === chosen;
      if (is === entry.marked) return;
      entry.marked = is;
      entry.element.setAttribute("aria-selected", String(is));
      if (is) entry.element.id = "chosen-row"; else entry.element.removeAttribute("id");
    };

    const fill = (entry, row, position) => {
      if (entry.position !== position) {
        entry.position = position;
        entry.element.setAttribute("aria-rowindex", String(position + 2));
      }
      if (entry.row?.serial !== row.serial) {
        entry.row = row;
        const name = `rule-${row.rule}`;
        if (entry.element.className !== name) entry.element.className = name;
        const now = texts(row);
        entry.letters.forEach((letters, at) => { if (letters.data !== now[at]) letters.data = now[at]; });
        if (entry.titled) { entry.titled.removeAttribute("title"); entry.titled = null; }
      }
      mark(entry);
    };

    const take = () => {
      const entry = spare.pop() ?? make();
      made.set(entry.element, entry);
      return entry;
    };
    const leave = (entries) => entries.forEach((entry) => { entry.element.remove(); spare.push(entry); });

    /* Show the rows at the scroll box's present place, of `count` rows in all. */
    const draw = (count) => {
      if (count !== total) {
        total = count;
        space.style.height = `${total * ROW_PX}px`;
        scroll.setAttribute("aria-rowcount", String(total + 1));
      }
      const top = Math.floor(scroll.scrollTop / ROW_PX);
      const from = Math.max(0, Math.min(top, total - 1) - OVERSCAN);
      const to = Math.min(total, top + inSight() + 2 + OVERSCAN);
      const reach = Math.max(0, to - from);
      if (from >= first + shown.length || from + reach <= first) { // nothing in common: the elements stay where they are
        leave(shown.splice(reach));
      } else {
        leave(shown.splice(0, Math.max(0, from - first)));
        const before = Math.max(0, first - from);
        leave(shown.splice(Math.max(0, reach - before)));
        const added = Array.from({ length: before }, take);
        rows.prepend(...added.map((entry) => entry.element));
        shown.unshift(...added);
      }
      if (shown.length < reach) {
        const added = Array.from({ length: reach - shown.length }, take);
        rows.append(...added.map((entry) => entry.element));
        shown.push(...added);
      }
      if (first !== from) {
        first = from;
        rows.style.transform = `translateY(${first * ROW_PX}px)`;
      }
      shown.forEach((entry, at) => fill(entry, store.at(first + at), first + at));
      const there = shown.some((entry) => entry.marked);
      if (there) scroll.setAttribute("aria-activedescendant", "chosen-row"); else scroll.removeAttribute("aria-activedescendant");
    };

    const toPosition = (position) => {
      const top = position * ROW_PX;
      const bottom = top + ROW_PX - (boxHeight - headHeight);
      if (scroll.scrollTop > top) scroll.scrollTop = top;
      else if (scroll.scrollTop < bottom) scroll.scrollTop = bottom;
    };

    new ResizeObserver(() => {
      boxHeight = scroll.clientHeight;
      headHeight = head.offsetHeight;
      scroll.dispatchEvent(new CustomEvent("wirepool:resized"));
    }).observe(scroll);

    // What doesn't fit its cell is told on hover; a title for every cell would cost more than the rest of the row.
    rows.addEventListener("mouseover", (event) => {
      const cell = event.target.closest("[role=gridcell]");
      const entry = cell && made.get(cell.parentElement);
      if (!entry?.row) return;
      const { time, flags, rule } = entry.row;
      const date = dateOf(time).toISOString().slice(0, 10);
      const more = cell.classList.contains("c-time") ? `${date} ${cell.textContent} UTC · ${rule}${flags ? ` · ${flags}` : ""}` : cell.textContent;
      if (entry.titled) entry.titled.removeAttribute("title");
      cell.title = more;
      entry.titled = cell;
    });

    return {
      draw,
      inSight,
      toPosition,
      /* The row that an element of the list (or something in it) shows now. */
      rowOf: (node) => made.get(node?.closest?.("[role=row]"))?.row ?? null,
      /* Position of the first row that is in sight, and behind the last one. */
      begin: () => Math.floor(scroll.scrollTop / ROW_PX),
      end: () => Math.min(total, Math.floor(scroll.scrollTop / ROW_PX) + inSight() + 1),
      toEnd: () => { scroll.scrollTop = total * ROW_PX + headHeight; },
      atEnd: () => total * ROW_PX + headHeight - scroll.scrollTop - boxHeight < 24,
      moveBy: (count) => { scroll.scrollTop += count * ROW_PX; },
      choose: (serial) => {
        chosen = serial;
        shown.forEach(mark);
        if (shown.some((entry) => entry.marked)) scroll.setAttribute("aria-activedescendant", "chosen-row");
      },
      chosen: () => chosen,
    };
  };
})();
