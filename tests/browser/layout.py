"""Whether a page holds together: nothing wider than the screen, nothing to press that can't be reached."""

from __future__ import annotations

from playwright.async_api import Page

LOOK = """
() => {
  const wrong = [];
  const root = document.documentElement;
  const excess = root.scrollWidth - root.clientWidth;
  if (excess > 0) wrong.push(`the page is ${excess} px wider than the screen`);
  const scrolls = (element) => {
    for (let at = element; at && at !== document.body; at = at.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true;
    }
    return false;
  };
  for (const element of document.querySelectorAll("button, a, input, select, textarea, summary, h1, h2")) {
    const box = element.getBoundingClientRect();
    if (!element.checkVisibility({ visibilityProperty: true }) || box.width < 2) continue;
    if (element.matches(".skip, .visually-hidden") || scrolls(element)) continue;
    if (box.left < -1 || box.right > root.clientWidth + 1) {
      wrong.push(`${element.outerHTML.slice(0, 120)} lies from ${box.left} to ${box.right} px`);
    }
  }
  return wrong;
}
"""


async def out_of_reach(page: Page) -> list[str]:
    """What is wider than the screen, or lies outside it where nobody can scroll; one line each."""
    found: list[str] = await page.evaluate(LOOK)
    return found
