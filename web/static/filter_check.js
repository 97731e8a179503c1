/* A capture filter is judged while it is typed, by the agents' own libpcap; its words stand below the field. One question at a
   time: a newer text calls off the older question, and sending the form calls off both. */
"use strict";
(() => {
  const TYPING_MS = 350;
  const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";
  let timer = 0;
  let asking = null;      // AbortController of the question on its way
  let asked = "";         // what was judged last, with the form it was in

  const callOff = () => {
    clearTimeout(timer);
    asking?.abort();
    asking = null;
  };

  const ask = async (field) => {
    callOff();
    const body = new URLSearchParams(new FormData(field.form));
    for (const [name, value] of Object.entries(JSON.parse(field.dataset.filterCheck || "{}"))) body.set(name, value);
    if (String(body) === asked) return;
    const mine = asking = new AbortController();
    try {
      const answer = await fetch("/live/check-filter", {
        method: "POST", body, signal: mine.signal, headers: { "x-csrf-token": csrf, "hx-request": "true" },
      });
      const text = await answer.text();
      if (mine.signal.aborted) return;
      if (!answer.ok) {
        document.dispatchEvent(new CustomEvent("wirepool:refused", { detail: { status: answer.status, text } }));
        return;
      }
      asked = String(body);
      const template = document.createElement("template");
      template.innerHTML = text;
      const message = template.content.firstElementChild;
      document.getElementById(message.id)?.replaceWith(message);
      field.setAttribute("aria-invalid", String(message.dataset.kind === "error"));
    } catch {
      // Called off, or the hub is away: the filter is judged when the form is sent.
    } finally {
      if (asking === mine) asking = null;
    }
  };

  const fieldOf = (node) => node.closest?.("[data-filter-check]");
  document.addEventListener("input", (event) => {
    const field = fieldOf(event.target);
    if (!field) return;
    callOff();
    timer = setTimeout(ask, TYPING_MS, field);
  });
  document.addEventListener("focusout", (event) => {
    const field = fieldOf(event.target);
    if (field && field.value.trim() && !event.relatedTarget?.closest("[type=submit]")) ask(field);
  });
  // Another agent or interface may judge another way.
  document.addEventListener("change", (event) => {
    const field = event.target.form?.querySelector("[data-filter-check]");
    if (field && field !== event.target && field.value.trim()) ask(field);
  });
  document.addEventListener("submit", callOff, true);
})();
