"""Numbers as people read them."""

__all__ = ["shown_bytes", "shown_number", "shown_time"]


def shown_bytes(size: float) -> str:
    """Bytes in the largest unit that they fill.

    >>> shown_bytes(3 * 2**30), shown_bytes(1536)
    ('3.0 GiB', '2 KiB')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"


def shown_time(seconds: float) -> str:
    """Seconds, minutes, hours or days.

    >>> shown_time(0.0123), shown_time(90), shown_time(90000)
    ('0.012 s', '1.5 min', '25 h')
    """
    for unit, scale, least in (("d", 86400, 172800), ("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def shown_number(number: int) -> str:
    """With separators.

    >>> shown_number(1234567)
    '1,234,567'
    """
    return f"{number:,}"
