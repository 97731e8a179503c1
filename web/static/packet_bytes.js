/* How a row of an opened packet's bytes shows what is marked: its text is cut into pieces, of which the marked ones are elements. */
"use strict";
(() => {
  globalThis.wirepool ??= {};
  const ROW = 16; // bytes of a line
  const hexAt = (column) => column * 3 + (column >= ROW / 2 ? 1 : 0);

  const pieces = (text, kinds, place, width) => {
    const made = [];
    let begun = 0;
    const flush = (end, kind) => {
      if (end <= begun) return;
      const piece = text.slice(begun, end);
      begun = end;
      if (!kind) { made.push(piece); return; }
      const mark = document.createElement("mark");
      mark.className = kind;
      mark.textContent = piece;
      made.push(mark);
    };
    for (let column = 0; column < kinds.length; column++) {
      const kind = kinds[column];
      if (!kind) continue;
      flush(place(column), "");
      let last = column;
      while (kinds[last + 1] === kind) last++;
      flush(place(last) + width, kind);
      column = last;
    }
    flush(text.length, "");
    return made;
  };

  /* Mark bytes [first, behind) of the packet and the byte the reader is at (-1: none) in one row. */
  const paintRow = (row, marked, cursor) => {
    const start = Number(row.dataset.offset);
    for (const [cell, place, width] of [[row.children[1], hexAt, 2], [row.children[2], (column) => column, 1]]) {
      const text = cell.textContent;
      const count = row.children[2].textContent.length;
      const kinds = Array.from({ length: count }, (_, column) => {
        const at = start + column;
        if (at === cursor) return "at";
        return at >= marked[0] && at < marked[1] ? "in" : "";
      });
      cell.replaceChildren(...pieces(text, kinds, place, width));
    }
  };

  wirepool.packetBytes = { hexAt, paintRow };
})();
