"""The style sheets: every text is readable on every ground it may stand on, in both themes, and colours are tokens."""

import re
from pathlib import Path

import pytest

from hub.web.pages import STATIC, TEMPLATES

SHEETS = ("tokens", "base", "components")
TOKEN = re.compile(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
TEXT_CONTRAST = 4.5
"""WCAG 2.2, 1.4.3: text below 18 pt."""
EDGE_CONTRAST = 3.0
"""WCAG 2.2, 1.4.11: the edge of what can be used."""

GROUNDS = ("bg", "surface", "surface-2")
PAIRS = [
    *((ink, ground, TEXT_CONTRAST) for ink in ("text", "muted", "accent") for ground in GROUNDS),
    *((ink, ground, TEXT_CONTRAST) for ink in ("good", "warn", "bad") for ground in GROUNDS),
    *((ink, f"{ink}-soft", TEXT_CONTRAST) for ink in ("good", "warn", "bad")),
    *(("text", f"{soft}-soft", TEXT_CONTRAST) for soft in ("accent", "good", "warn", "bad")),
    *(("muted", f"{soft}-soft", TEXT_CONTRAST) for soft in ("accent", "warn", "bad")),
    ("accent-text", "accent", TEXT_CONTRAST),
    ("bad-text", "bad", TEXT_CONTRAST),
    ("line-strong", "surface", EDGE_CONTRAST),
    ("line-strong", "bg", EDGE_CONTRAST),
]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_can_be_read_on_its_ground(theme: int) -> None:
    text = (STATIC / "tokens.css").read_text(encoding="utf-8")
    tokens = {name: (light, dark)[theme] for name, light, dark in TOKEN.findall(text)}
    weak = {
        f"{ink} on {ground}": round(contrast(tokens[ink], tokens[ground]), 2)
        for ink, ground, least in PAIRS
        if contrast(tokens[ink], tokens[ground]) < least
    }
    assert weak == {}


def test_contrast_is_reckoned_as_the_standard_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_colours_stand_in_the_tokens_alone() -> None:
    colour = re.compile(r"#[0-9a-fA-F]{3,8}\b(?=[^{]*[;}])|\brgba?\(|\bhsla?\(")
    hits = [
        f"{name}.css: {match[0]}"
        for name in ("base", "components")
        for match in colour.finditer((STATIC / f"{name}.css").read_text(encoding="utf-8"))
    ]
    assert hits == []


def _used(pattern: str, files: list[Path]) -> set[str]:
    return {name for path in files for name in re.findall(pattern, path.read_text(encoding="utf-8"))}


def test_every_token_and_icon_that_is_used_exists() -> None:
    sheets, templates = [*STATIC.glob("*.css")], [*TEMPLATES.rglob("*.html")]
    declared = _used(r"(?m)(?:^|[\s;{])--([a-z0-9-]+):", sheets)
    assert _used(r"var\(--([a-z0-9-]+)\)", sheets) <= declared
    icons = _used(r'<symbol id="([a-z]+)"', [STATIC / "icons.svg"])
    assert _used(r'icon\("([a-z]+)"\)', templates) <= icons
