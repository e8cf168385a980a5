"""The look that graft's HTML pages share: `page.css` beside this file, for templates to include."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""A template's loader finds `page.css` here."""
