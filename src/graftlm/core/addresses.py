"""Addresses that a user writes."""

from __future__ import annotations

import urllib.parse


def is_http_address(url: str) -> bool:
    """Whether this is a whole http or https address, with a host and a sensible port."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # only now is a port looked at that is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and " " not in url
