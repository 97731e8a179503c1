/* The menu at the right of the header: the choice of light or dark, and how the menu closes.
   The choice is a cookie, so that the hub itself writes it into the next page and nothing flashes. */
"use strict";
(() => {
  const COOKIE = "wirepool-theme";
  const YEAR_S = 31_536_000;
  const root = document.documentElement;

  document.addEventListener("change", (event) => {
    if (event.target.name !== "theme") return;
    const theme = event.target.value;
    const kept = theme === "light" || theme === "dark";
    if (kept) root.dataset.theme = theme; else delete root.dataset.theme;
    document.cookie = `${COOKIE}=${kept ? theme : ""}; Path=/; Max-Age=${kept ? YEAR_S : 0}; SameSite=Strict; Secure`;
    document.dispatchEvent(new CustomEvent("wirepool:theme", { detail: { theme } }));
  });

  const open = () => document.querySelectorAll("details.menu[open]");
  document.addEventListener("click", (event) => {
    for (const menu of open()) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("focusin", (event) => {
    for (const menu of open()) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of open()) {
      menu.open = false;
      menu.querySelector("summary").focus();
      event.stopImmediatePropagation();
    }
  }, true);
})();
