"""Families that tests register are forgotten after each."""

import pytest

from cambrian_gaze.models.tower import registry


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict:
    known = dict(registry._FAMILIES)
    monkeypatch.setattr(registry, "_FAMILIES", known)
    return known
