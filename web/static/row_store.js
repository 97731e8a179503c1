/* The rows that the live page holds, most of them out of sight. What is not looked at is kept as bytes, 256 rows a block:
   a row costs 150 to 200 bytes so, a tenth of what it takes as objects, and a bound in rows is a bound in memory.
   A row is named by its serial number (it stays) and found at a position (it moves when older rows are forgotten). */
"use strict";
(() => {
  globalThis.wirepool ??= {};
  const BLOCK = 256;
  const READ_BLOCKS = 6;   // blocks kept readable: what a window shows, and its neighbours
  const SLACK_BLOCKS = 16; // how far rows that the reader holds on to may go beyond the bound

  const FIELDS = ["sequence", "index", "time", "heard", "source", "destination", "protocol", "length", "info", "rule", "flags"];

  const rowOf = (serial, [agent, interface_, prefix], line) => {
    const row = { serial, agent, interface: interface_ };
    FIELDS.forEach((name, at) => { row[name] = line[at + 1]; });
    row.observation = `${prefix}/${row.sequence}/${row.index}`;
    return row;
  };

  const byTime = ([, { 3: a }], [, { 3: b }]) => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);

  wirepool.RowStore = class {
    #maxRows;
    #blocks = [];      // of BLOCK rows each, oldest first: {first: its first serial, bytes}
    #tail = [];        // the newest rows: [source, line]
    #next = 0;         // serial of the row that comes next
    #read = new Map(); // first serial of a block → its [source, line]s; the one used last is the last
    #encoder = new TextEncoder();
    #decoder = new TextDecoder();

    constructor(maxRows) {
      this.#maxRows = Math.max(BLOCK, maxRows);
      this.forgotten = 0; // rows that were here and made room for others
    }

    get length() { return this.#blocks.length * BLOCK + this.#tail.length; }
    /* The serial of the row that comes next. */
    get next() { return this.#next; }
    get bytes() { return this.#blocks.reduce((sum, block) => sum + block.bytes.byteLength, 0); }

    /* Put older rows among those from `position` on, by their times. They and the rows behind them get new serials.
       How many were forgotten at the very beginning for it. */
    insert({ sources, rows }, position) {
      const behind = this.#cut(position);
      const both = [...rows.map((line) => [sources[line[0]], line]), ...behind].sort(byTime);
      let moved = 0;
      for (const [source, line] of both) moved += this.append({ sources: [source], rows: [[0, ...line.slice(1)]] }, this.length);
      return moved;
    }

    /* Take an update's rows. The first `held` rows are kept if that is possible: somebody looks at them. Beyond the bound
       the oldest of the others go. How many went from the very beginning: by so much every position has changed. */
    append({ sources, rows }, held = 0) {
      for (const line of rows) {
        this.#tail.push([sources[line[0]], line]);
        this.#next += 1;
        if (this.#tail.length === BLOCK) this.#seal();
      }
      let moved = 0;
      while (this.length > this.#maxRows && this.#blocks.length) {
        const heldBlocks = Math.ceil(held / BLOCK);
        const tooMany = this.length > this.#maxRows + SLACK_BLOCKS * BLOCK;
        if (heldBlocks >= this.#blocks.length && !tooMany) break;
        const at = tooMany && heldBlocks >= this.#blocks.length ? 0 : heldBlocks;
        const [gone] = this.#blocks.splice(at, 1);
        this.#read.delete(gone.first);
        this.forgotten += BLOCK;
        if (at === 0) moved += BLOCK;
      }
      return moved;
    }

    /* The row at a position, 0 the oldest; undefined where there is none. */
    at(position) {
      if (position < 0 || position >= this.length) return undefined;
      const number = Math.floor(position / BLOCK);
      const inside = position % BLOCK;
      if (number === this.#blocks.length) {
        const [source, line] = this.#tail[inside];
        return rowOf(this.#next - this.#tail.length + inside, source, line);
      }
      const { first } = this.#blocks[number];
      const [source, line] = this.#open(number)[inside];
      return rowOf(first + inside, source, line);
    }

    /* Where the row of this serial is; -1 when it was forgotten. */
    positionOf(serial) {
      const tailFirst = this.#next - this.#tail.length;
      if (serial >= tailFirst) return serial < this.#next ? this.#blocks.length * BLOCK + serial - tailFirst : -1;
      let low = 0;
      let high = this.#blocks.length - 1;
      while (low <= high) {
        const middle = (low + high) >> 1;
        const { first } = this.#blocks[middle];
        if (serial < first) high = middle - 1;
        else if (serial >= first + BLOCK) low = middle + 1;
        else return middle * BLOCK + serial - first;
      }
      return -1;
    }

    /* Where the first row with this serial or a later one is; the length when there is none. */
    positionFrom(serial) {
      const tailFirst = this.#next - this.#tail.length;
      if (serial >= tailFirst) return Math.min(this.length, this.#blocks.length * BLOCK + serial - tailFirst);
      const number = this.#blocks.findIndex(({ first }) => serial < first + BLOCK);
      if (number < 0) return this.#blocks.length * BLOCK;
      return number * BLOCK + Math.max(0, serial - this.#blocks[number].first);
    }

    /* Where the packet of this name is; -1 when it isn't. Read from the newest on: for a row that is looked at. */
    find(observation) {
      for (let position = this.length - 1; position >= 0; position--) {
        if (this.at(position).observation === observation) return position;
      }
      return -1;
    }

    clear() {
      this.#blocks = [];
      this.#tail = [];
      this.#read.clear();
      this.forgotten = 0;
    }

    /* Take out the rows from `position` on. */
    #cut(position) {
      const rows = [];
      const block = Math.floor(position / BLOCK);
      const inside = position % BLOCK;
      for (let number = block; number < this.#blocks.length; number++) rows.push(...this.#open(number));
      rows.push(...this.#tail);
      for (const gone of this.#blocks.splice(block)) this.#read.delete(gone.first);
      this.#tail = rows.splice(0, inside);
      this.#next += inside; // the rows before `position` in its block have no block any more: they get new serials too
      return rows;
    }

    #seal() {
      const places = new Map();
      const sources = [];
      const rows = this.#tail.map(([source, line]) => {
        const key = JSON.stringify(source);
        if (!places.has(key)) { places.set(key, sources.length); sources.push(source); }
        return [places.get(key), ...line.slice(1)];
      });
      const bytes = this.#encoder.encode(JSON.stringify({ sources, rows }));
      this.#blocks.push({ first: this.#next - BLOCK, bytes });
      this.#tail = [];
    }

    #open(number) {
      const { first, bytes } = this.#blocks[number];
      let opened = this.#read.get(first);
      if (opened) {
        this.#read.delete(first);
      } else {
        const { sources, rows } = JSON.parse(this.#decoder.decode(bytes));
        opened = rows.map((line) => [sources[line[0]], line]);
      }
      this.#read.set(first, opened);
      if (this.#read.size > READ_BLOCKS) this.#read.delete(this.#read.keys().next().value);
      return opened;
    }
  };
})();
