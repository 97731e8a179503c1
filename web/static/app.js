/* What every page needs beyond htmx: the CSRF token, questions before deeds, messages, times, dialogs. No inline code anywhere:
   the Content-Security-Policy forbids it. */
"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const csrf = one('meta[name="csrf"]')?.content ?? "";

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["x-csrf-token"] = csrf;
  });

  const toLogin = () => location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));

  /* Messages. What is on the screen already isn't said again. */
  const toast = (text, kind = "bad") => {
    const list = one("#toasts");
    if ([...list.children].some((box) => box.firstElementChild.textContent === text)) return;
    const box = document.createElement("div");
    box.className = `toast ${kind}`;
    box.dataset.testid = "toast";
    const words = document.createElement("p");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "quiet compact";
    close.textContent = "Close";
    close.addEventListener("click", () => box.remove());
    box.append(words, close);
    list.append(box);
    while (list.children.length > 4) list.firstElementChild.remove();
    if (kind === "ok") setTimeout(() => box.remove(), 5000);
  };

  /* While the hub doesn't answer one notice stands, whoever noticed it: a request (then the page asks until there is an answer)
     or the page's event stream (which comes back by itself). */
  const ASK_MS = 2000;
  const silent = { requests: false, stream: false };
  const show = () => { const bar = one("#connection"); if (bar) bar.hidden = !(silent.requests || silent.stream); };
  let asking = false;
  const ask = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch("/api/session", { headers: { accept: "application/json" } });
      if (answer.status === 401) toLogin();
      silent.requests = false;
    } catch { /* the hub is away */ }
    show();
    setTimeout(() => { asking = false; if (silent.requests || silent.stream) ask(); }, ASK_MS);
  };
  const away = (who) => { silent[who] = true; show(); ask(); };
  const back = () => { silent.stream = false; show(); };
  document.addEventListener("htmx:sseError", () => away("stream"));
  document.addEventListener("htmx:sseOpen", back);
  document.addEventListener("wirepool:stream", (event) => { if (event.detail.away) away("stream"); else back(); });

  const unanswered = (event) => {
    away("requests");
    const verb = event.detail.requestConfig?.verb ?? "get";
    if (verb !== "get") toast("That was not done, or the answer was lost: the hub doesn't answer. Try again when it does.");
  };
  const refused = (status, body) => {
    if (status === 401) {
      toLogin();
      return;
    }
    if (!status) {
      away("requests");
      return;
    }
    let text = "";
    try { text = JSON.parse(body).error.message; } catch { /* not ours */ }
    toast(text || `The hub answered with status ${status}. Try again; if it stays, look into the hub's log.`);
  };
  document.addEventListener("htmx:responseError", (event) => refused(event.detail.xhr.status, event.detail.xhr.responseText));
  document.addEventListener("htmx:sendError", unanswered);
  document.addEventListener("htmx:timeout", unanswered);
  document.addEventListener("wirepool:refused", (event) => refused(event.detail.status, event.detail.text));
  document.addEventListener("wirepool:toast", (event) => toast(event.detail.text, event.detail.kind));

  /* Questions before deeds that can't be undone */
  const confirm = one("#confirm");
  let proceed = null;
  let agreed = null;       // the button of an answered question that is pressed once more
  document.addEventListener("htmx:confirm", (event) => {
    if (!event.detail.question) return;
    event.preventDefault();
    const source = event.detail.elt;
    if (source === agreed) {
      agreed = null;
      event.detail.issueRequest(true);
      return;
    }
    one("#confirm-title").textContent = event.detail.question;
    one("#confirm-text").textContent = source.dataset.confirmText ?? "";
    one("#confirm-yes").textContent = source.dataset.confirmYes ?? "Yes";
    proceed = () => {
      if (source.isConnected) {
        event.detail.issueRequest(true);
        return;
      }
      // What shows the session's state was swapped while the question was open, and htmx does nothing for a button that has
      // left the page: the new one is asked.
      agreed = source.id ? document.getElementById(source.id) : null;
      if (agreed) agreed.click(); else toast("The page has changed meanwhile, and this is no longer possible.");
    };
    confirm.showModal();
    one("#confirm-no").focus();
  });
  one("#confirm-yes")?.addEventListener("click", () => { confirm.close(); proceed?.(); proceed = null; });
  one("#confirm-no")?.addEventListener("click", () => confirm.close());

  /* The panel opens when something was loaded into it; an answer with nothing in it closes it. */
  const panel = one("#panel");
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id !== "panel-content") return;
    const empty = event.detail.target.textContent.trim() === "";
    if (empty) panel.close();
    else if (!panel.open) panel.showModal();
  });
  /* A field whose message says what is wrong is marked as wrong. */
  document.addEventListener("htmx:load", (event) => {
    const message = event.detail.elt;
    if (!message.classList?.contains("message") || !message.id) return;
    const field = document.querySelector(`[aria-describedby="${message.id}"]`);
    if (field) field.setAttribute("aria-invalid", String(message.classList.contains("error")));
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) panel.close();
    if (event.target === panel || event.target === confirm) event.target.close();
  });

  /* Choosing an interface chooses its agent. */
  document.addEventListener("change", (event) => {
    const name = event.target.name ?? "";
    if (!name.startsWith("interface.")) return;
    const box = document.getElementById("pick-" + name.slice("interface.".length));
    if (box && !box.disabled) box.checked = true;
  });

  /* Times are UTC; the reader's own is in the title. */
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  document.addEventListener("mouseover", (event) => {
    const time = event.target.closest?.("time");
    if (!time || time.title) return;
    const when = new Date(time.dateTime.replace(/\.(\d{3})\d*Z$/, ".$1Z"));
    if (!Number.isNaN(when.valueOf())) time.title = `${time.dateTime.replace("T", " ").replace("Z", " UTC")}\nhere: ${local.format(when)}`;
  });

  /* "/" goes to the field for searching or filtering. */
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    const field = one("#q, #filter");
    if (field) { event.preventDefault(); field.focus(); }
  });
})();
