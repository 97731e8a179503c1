/* The query field: suggestions while it is written, what is wrong with it under it, times that exclude each other, the link to share.
   A combobox as the ARIA practices describe it: the focus stays in the field, aria-activedescendant says which option is meant. */
"use strict";
(() => {
  const field = document.getElementById("q");
  const list = document.getElementById("query-options");
  const message = document.getElementById("query-message");
  const form = document.getElementById("explore-form");
  if (!field || !list) return;
  const DELAY_MS = 120;
  let options = [];
  let active = -1;
  let timer = 0;
  let asked = 0;       // of several answers only the last question's counts

  const what = () => form.elements.what.value;

  const close = () => {
    list.hidden = true;
    options = [];
    active = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };

  const mark = (number) => {
    active = number;
    [...list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === number)));
    const item = list.children[number];
    if (!item) { field.removeAttribute("aria-activedescendant"); return; }
    field.setAttribute("aria-activedescendant", item.id);
    item.scrollIntoView({ block: "nearest" });
  };

  const show = (found) => {
    options = found;
    active = -1;
    list.replaceChildren(...found.map((one, number) => {
      const item = document.createElement("li");
      item.id = `query-option-${number}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      const text = document.createElement("code");
      text.textContent = one.text;
      const meaning = document.createElement("span");
      meaning.textContent = one.meaning;
      item.append(text, meaning);
      return item;
    }));
    list.hidden = found.length === 0;
    field.setAttribute("aria-expanded", String(found.length > 0));
    if (!found.length) field.removeAttribute("aria-activedescendant");
  };

  const tell = (answer) => {
    const wrong = Boolean(answer.error);
    message.className = wrong ? "message error" : "message";
    field.setAttribute("aria-invalid", String(wrong));
    message.replaceChildren();
    if (!wrong) return;
    const { start, end } = answer.error;
    const piece = [...field.value].slice(start, end).join("");
    if (piece) {
      const place = document.createElement("mark");
      place.textContent = piece.length > 60 ? piece.slice(0, 60) + "…" : piece;
      message.append(place, " ");
    }
    message.append(answer.error.message);
  };

  const ask = async (suggest) => {
    const mine = ++asked;
    const before = [...field.value.slice(0, field.selectionStart ?? field.value.length)].length; // the hub counts code points
    const query = new URLSearchParams({ q: field.value, at: String(before), what: what() });
    let answer;
    try {
      const response = await fetch(`/api/explore/query?${query}`, { headers: { accept: "application/json" } });
      if (!response.ok) return;
      answer = await response.json();
    } catch { return; } // the hub is away: the search itself will say so
    if (mine !== asked) return;
    if (suggest && document.activeElement === field) show(answer.suggestions);
    // Who is still writing knows that it isn't whole yet: only what can't become right is said at once.
    const unfinished = answer.error && document.activeElement === field && answer.error.end >= [...field.value.trimEnd()].length;
    tell(unfinished ? {} : answer);
  };
  const soon = () => { clearTimeout(timer); timer = setTimeout(() => ask(true), DELAY_MS); };

  const take = (number) => {
    const one = options[number];
    if (!one) return;
    const points = [...field.value];
    const before = points.slice(0, one.start).join("");
    const behind = points.slice(one.end).join("");
    const text = one.text + (one.kind === "value" || one.text.endsWith("{") ? "" : " ");
    field.value = before + text + behind;
    const at = before.length + text.length;
    field.setSelectionRange(at, at);
    close();
    ask(one.kind !== "value");
  };

  field.addEventListener("input", soon);
  field.addEventListener("click", soon);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) { ask(true); return; }
      const step = event.key === "ArrowDown" ? 1 : -1;
      mark((active + step + options.length) % options.length);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      take(active);
    } else if (event.key === "Tab" && !list.hidden && !event.shiftKey && active >= 0) {
      event.preventDefault();
      take(active);
    }
  });
  list.addEventListener("mousedown", (event) => {
    event.preventDefault(); // the focus stays in the field
    const item = event.target.closest("li");
    if (item) take([...list.children].indexOf(item));
  });
  field.addEventListener("blur", () => { clearTimeout(timer); close(); ask(false); });

  /* A relative time and an absolute one exclude each other. */
  const last = form.elements.last;
  for (const name of ["since", "until"]) {
    form.elements[name].addEventListener("input", () => { last.value = ""; });
  }
  last.addEventListener("change", () => {
    if (last.value) { form.elements.since.value = ""; form.elements.until.value = ""; form.requestSubmit(); } else form.elements.since.focus();
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "what" || event.target.name === "order") form.requestSubmit();
  });
  form.addEventListener("submit", () => { // an address without empty parts
    for (const name of ["q", "last", "since", "until"]) {
      const part = form.elements[name];
      if (!part.value) part.disabled = true;
    }
    setTimeout(() => { for (const part of form.elements) part.disabled = false; }, 0);
  });

  document.getElementById("copy-link")?.addEventListener("click", async (event) => {
    const link = new URL(event.currentTarget.dataset.link, location.href).href;
    let text = "The link is copied: it shows this time to anybody with a login.";
    let kind = "ok";
    try { await navigator.clipboard.writeText(link); } catch { text = link; kind = "bad"; }
    document.dispatchEvent(new CustomEvent("wirepool:toast", { detail: { text, kind } }));
  });
})();
