"""Numbers as people read them."""


def bytes_text(count: float) -> str:
    """1234567 → "1.2 MB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 9.95 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration_text(seconds: float) -> str:
    """95 → "2 min"; one unit is enough for people."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length * 0.9999:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
