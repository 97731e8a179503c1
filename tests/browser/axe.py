"""axe-core in a page: what keeps people out who see, hear or move otherwise."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page

SOURCE = Path(__file__).parent / "vendor" / "axe-core-4.14.1.min.js"
RUN = """
async rules => {
  const options = { resultTypes: ["violations"] };
  if (rules.length) options.runOnly = rules;
  const found = await axe.run(document, options);
  return found.violations.flatMap(rule => rule.nodes.map(node =>
    `${rule.id} (${rule.impact}): ${node.target.join(" ")} ${node.html.slice(0, 160)} | ${node.failureSummary}`));
}
"""


async def findings(page: Page, *rules: str) -> list[str]:
    """Every violation of these rules of axe-core, or of all where none is named; one line each.

    The script comes by the debugger, not by a tag: the page's Content-Security-Policy holds while it is judged.
    """
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(SOURCE.read_text(encoding="utf-8"))
    found: list[str] = await page.evaluate(RUN, rules)
    return found
