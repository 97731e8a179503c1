/* Tells the progress of downloads that one was begun. htmx can't listen to a link itself: it would keep it from being followed. */
"use strict";
(() => {
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".export-button")) return;
    document.getElementById("download")?.dispatchEvent(new CustomEvent("download-begun"));
  });
})();
