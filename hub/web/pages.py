"""HTML out of web/templates, in which every text from a wire, a file, a form or an agent is hostile.

Three nets, none of which a template can forget: Jinja2 escapes by default, an unknown name is an error
(StrictUndefined), and `finalize` makes control and bidirectional characters visible in every text, so that a host name
can't turn the line around it backwards.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response
from litestar.enums import MediaType
from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parents[2] / "web" / "templates"
STATIC = TEMPLATES.parent / "static"

# Cc without tab and newline, Cf that reorder or hide text, line and paragraph separators, lone surrogates, specials.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
NS = 1_000_000_000
THEME_COOKIE = "wirepool-theme"
THEMES = ("light", "dark")


def visible(text: str) -> str:
    """The text with every control, invisible or direction-changing character replaced by its code: ⟨202E⟩."""
    return _UNSEEN.sub(lambda match: f"⟨{ord(match[0]):04X}⟩", text)


def _finalize(value: object) -> object:
    if type(value) is str:
        return visible(value)
    if value is None:
        return ""
    return value


def utc(time_ns: int | None, *, fraction: bool = True) -> str:
    """UTC with all nine digits, as in 2026-11-23 12:00:00.123456789; "–" for None."""
    if time_ns is None:
        return "–"
    seconds, rest = divmod(time_ns, NS)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
    return f"{text}.{rest:09d}" if fraction else text


def clock_time(time_ns: int) -> str:
    """The time of day in UTC with all nine digits."""
    return utc(time_ns)[11:]


def time_tag(time_ns: int | None, *, fraction: bool = False) -> Markup:
    """A <time> element; the page adds the reader's local time as its title."""
    if time_ns is None:
        return Markup("–")
    text = utc(time_ns, fraction=fraction)
    return Markup('<time datetime="{}Z">{}</time>').format(utc(time_ns).replace(" ", "T"), text)


def count(value: float | None) -> str:
    """Digits in groups of three (narrow no-break spaces)."""
    if value is None:
        return "not counted"
    return f"{int(value):,}".replace(",", "\u202f")


def size(value: float | None) -> str:
    """Bytes in decimal steps, three significant digits: 1.24 MB."""
    return rate(value, "B")


def rate(value: float | None, unit: str = "") -> str:
    """A rate in decimal steps: 1.24 k, 33.1 M."""
    if value is None:
        return "–"
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(value) < 999.5 or prefix == "E":
            digits = (
                f"{value:.0f}" if prefix == "" and (value >= 10 or value == int(value)) else f"{value:.3g}"
            )
            return f"{digits} {prefix}{unit}".rstrip()
        value /= 1000
    raise AssertionError


def duration(seconds: float | None) -> str:
    """A time span in its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for large, small, name, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name} {rest} {part}" if rest else f"{whole // large} {name}"
    return f"{whole} s"


def offset(value_ns: int | None) -> str:
    """A signed clock offset with a fitting unit."""
    if value_ns is None:
        return "unknown"
    if abs(value_ns) >= 1000 * NS:
        return ("+" if value_ns > 0 else "-") + duration(abs(value_ns) / NS)
    for unit, scale in (("s", NS), ("ms", 10**6), ("µs", 10**3)):
        if abs(value_ns) >= scale:
            return f"{value_ns / scale:+.3g} {unit}"
    return f"{value_ns:+d} ns"


def theme_of(request: Request[Any, Any, Any]) -> str:
    """The reader's choice of "light" or "dark" (web/static/account_menu.js keeps it); "" follows their system."""
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in THEMES else ""


def span(value_ns: int | None) -> str:
    """A length of time, to the nanosecond: 1.24 ms."""
    return "unknown" if value_ns is None else offset(abs(value_ns)).lstrip("+")


def environment() -> Environment:
    """The template environment; every filter above by its name."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for function in (visible, utc, clock_time, time_tag, count, size, rate, duration, offset, span):
        env.filters[function.__name__] = function
    return env


class Pages:
    """Renders templates. One per application."""

    def __init__(self, version: str) -> None:
        self._env = environment()
        self._env.globals["version"] = version
        self._env.globals["icon"] = lambda name: Markup(
            '<svg class="icon" aria-hidden="true" focusable="false"><use href="/static/icons.svg?v={}#{}"/></svg>'
        ).format(version, name)

    def text(self, template: str, **context: Any) -> str:
        """A template as text: fragments for event streams."""
        return self._env.get_template(template).render(**context)

    def page(
        self, request: Request[Any, Any, Any], template: str, *, status: int = 200, **context: Any
    ) -> Response[str]:
        """A whole page. `session` (the WebSession or None), `path` and `theme` are there in every page."""
        frame = {"session": request.scope.get("user"), "path": request.url.path, "theme": theme_of(request)}
        body = self.text(template, **frame | context)
        return Response(body, media_type=MediaType.HTML, status_code=status)

    def fragment(
        self, template: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
    ) -> Response[str]:
        """A piece of HTML for htmx."""
        return Response(
            self.text(template, **context), media_type=MediaType.HTML, status_code=status, headers=headers
        )


def wants_html(request: Request[Any, Any, Any]) -> bool:
    """Whether the client is a browser that navigates: not htmx, not the JSON API."""
    return (
        "text/html" in request.headers.get("accept", "")
        and "hx-request" not in request.headers
        and not request.url.path.startswith("/api/")
    )
