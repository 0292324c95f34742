"""The look of a page: system fonts, light and dark, no outside resource."""

from __future__ import annotations

from importlib.resources import files

STYLE = (files("cambrian_gaze") / "assets" / "pages" / "page.css").read_text(encoding="utf-8")
