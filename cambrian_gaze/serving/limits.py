"""What one client, and all of them together, may take of a server."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BODY = 64 * 2**20
"""Largest request in bytes."""


@dataclass(frozen=True)
class Limits:
    """Bounds of memory and time. Every one that is exceeded is answered, but for clients that do not read."""

    max_body: int = MAX_BODY
    """Largest request in bytes; a larger one gets status 413."""
    max_held: int = 4 * MAX_BODY
    """Bytes of requests that are held at a time, over all clients; beyond it status 503."""
    max_waiting: int = 64
    """Requests that are read, waiting or answered at a time; beyond it status 503, with Retry-After."""
    max_prepared: int = 4
    """Requests whose pictures are decoded at a time, the one that is answered included."""
    max_connections: int = 512
    """Connections at a time; beyond it status 503."""
    header_seconds: float = 20.0
    """For a request's head, from the connection or the last answer on; then the connection is closed."""
    body_pause: float = 20.0
    """Longest pause within a request's body; then status 408."""
    body_seconds: float = 300.0
    """For a request's whole body; then status 408."""
    write_seconds: float = 60.0
    """How long a client may leave an answer unread; then the connection is closed and its slot is free."""
