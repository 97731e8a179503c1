/* The live list: rows come from the hub as JSON, at most 25 times a second, and go into the store; once per animation frame
   those in sight are drawn. The tail is followed until the reader scrolls up or chooses a row; what the reader looks at stays. */
"use strict";
(() => {
  const feed = document.getElementById("feed");
  if (!feed) return;
  const REST_MS = 250; // how often the list grows below what is looked at
  const byId = (id) => document.getElementById(id);
  const scroll = byId("scroll");
  const message = byId("feed-message");
  const newRows = byId("new-rows");
  const freeze = byId("freeze");
  const viewState = byId("view-state");
  const forgotten = byId("forgotten");
  const archived = byId("archived");

  const store = new wirepool.RowStore(Number(feed.dataset.maxRows));
  const list = wirepool.rowWindow({ scroll, space: byId("space"), rows: byId("rows"), head: byId("rows-head"), store });
  let following = true;
  let held = false;        // by a chosen row: the end of the list is then not the wish to follow it
  let frozenAt = -1;       // rows in the picture while it is frozen; -1: it isn't
  let unseen = 0;          // arrived while not following or frozen
  let moved = 0;           // rows forgotten above what is looked at, since it was drawn, less those put in there
  let toldForgotten = 0;
  let scheduled = false;
  let begun = 0;           // serial of the first row that can have come by the present stream
  let cleared = false;     // since the present stream began
  const newest = new Map(); // source → [sequence, index] of the newest packet that the page has had of it
  let before = new Map();   // the same when the present stream began

  const frozen = () => frozenAt >= 0;
  const count = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");

  const tell = () => {
    newRows.hidden = unseen === 0;
    newRows.textContent = `↓ ${unseen > 9999 ? "9999+" : unseen} new`;
    viewState.textContent = frozen() ? "view frozen" : following ? "" : "not following";
    toldForgotten = store.forgotten;
    forgotten.hidden = toldForgotten === 0;
    forgotten.textContent = `${count(toldForgotten)} rows forgotten`;
  };

  const draw = () => {
    scheduled = false;
    if (frozen()) frozenAt = Math.max(0, frozenAt - moved);
    const total = frozen() ? frozenAt : store.length;
    if (moved < 0) list.draw(total); // older rows came above: the list must be as long before it can be moved
    if (moved && (!following || frozen())) list.moveBy(-moved);
    moved = 0;
    list.draw(total);
    if (following && !frozen()) {
      list.toEnd();
      list.draw(total);
    }
    if (total) message.hidden = true;
    if (store.forgotten !== toldForgotten) tell();
  };

  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(draw);
  };
  // Rows that come below what the reader looks at needn't come at once: a packet that is being opened goes first.
  let resting = false;
  const rest = () => {
    if (resting) return;
    resting = true;
    setTimeout(() => { resting = false; tell(); if (!frozen() || moved) schedule(); }, REST_MS);
  };
  const later = ([sequence, index], than) => !than || sequence > than[0] || (sequence === than[0] && index > than[1]);
  const note = ({ sources, rows }) => {
    for (const [source, sequence, index] of rows) {
      const name = sources[source][2];
      const packet = [Number(sequence), Number(index)];
      if (later(packet, newest.get(name))) newest.set(name, packet);
    }
  };
  /* Packets from before the stream began: without those that the page has had already, from a stream before this one. */
  const takeOlder = (update) => {
    if (before.size === 0) tellArchived(update.archived);
    if (cleared) return;
    const { sources } = update;
    const rows = update.rows.filter(([source, sequence, index]) =>
      later([Number(sequence), Number(index)], before.get(sources[source][2])));
    note({ sources, rows });
    if (!rows.length) return;
    if (moved) draw();
    const at = store.positionFrom(begun);
    const find = (row) => store.find(row.observation);
    const chosen = list.chosen() < 0 ? undefined : store.at(store.positionOf(list.chosen()));
    const top = list.begin() >= at && (frozen() || !following) ? store.at(list.begin()) : undefined;
    const last = frozenAt > at ? store.at(frozenAt - 1) : undefined;
    const gone = store.insert({ sources, rows }, at);
    begun = store.at(Math.max(0, at - gone)).serial;
    if (chosen) list.choose(store.at(find(chosen))?.serial ?? -1);
    moved = top ? list.begin() - find(top) : gone; // what is looked at stays, however many came above it
    if (last) frozenAt = find(last) + 1 + moved;
    else if (!following || frozen()) { unseen += rows.length; tell(); }
    if (last || !frozen()) schedule();
  };
  const tellArchived = (number) => {
    archived.hidden = number === 0;
    archived.textContent = number === null ? "older packets: the archive doesn't answer" : `${count(number)} older in the archive`;
  };
  const take = (update) => {
    note(update);
    const looksAt = following && !frozen() ? 0 : Math.max(frozenAt, list.end());
    moved += store.append(update, looksAt);
    if (following && !frozen()) { schedule(); return; }
    unseen += update.rows.length;
    if (newRows.hidden) tell(); // the first ones are told at once
    rest();
  };

  const follow = () => {
    frozenAt = -1;
    held = false;
    following = true;
    unseen = 0;
    showFreeze();
    tell();
    schedule();
  };
  const hold = () => { held = true; following = false; tell(); };
  const release = () => { held = false; };

  const showFreeze = () => {
    freeze.setAttribute("aria-pressed", String(frozen()));
    freeze.classList.toggle("toggled", frozen());
    freeze.querySelector(".word").textContent = frozen() ? "Unfreeze view" : "Freeze view";
    feed.classList.toggle("frozen", frozen());
  };
  freeze.addEventListener("click", () => {
    if (frozen()) { follow(); return; }
    frozenAt = store.length;
    showFreeze();
    tell();
    schedule();
  });

  scroll.addEventListener("scroll", () => {
    schedule();
    if (frozen() || held) return;
    const end = list.atEnd();
    if (end === following) return;
    following = end;
    if (end) unseen = 0;
    tell();
  }, { passive: true });
  scroll.addEventListener("wirepool:resized", schedule);
  newRows.addEventListener("click", () => { follow(); scroll.focus(); });
  byId("clear").addEventListener("click", () => {
    store.clear();
    frozenAt = -1;
    moved = 0;
    cleared = true;
    archived.hidden = true;
    list.choose(-1);
    message.textContent = "List emptied. Waiting for packets…";
    message.hidden = false;
    follow();
  });

  /* What packet_list.js and measurements need. `total` is what can be walked through: a frozen picture has no newer rows. */
  wirepool.live = {
    scroll, store, list, take, takeOlder, hold, release, follow,
    total: () => (frozen() ? frozenAt : store.length),
    show: (position) => { list.toPosition(position); draw(); },
  };

  wirepool.stream(feed.dataset.stream, {
    opened: () => {
      begun = store.next;
      before = new Map(newest);
      cleared = false;
    },
    older: (text) => takeOlder(JSON.parse(text)),
    rows: (text) => take(JSON.parse(text)),
    ended: () => {
      message.textContent = "This session has ended. Its packets are in the export.";
      message.hidden = store.length > 0;
    },
  });
})();
