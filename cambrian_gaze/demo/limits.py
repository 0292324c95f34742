"""What one visitor, and all of them together, may take of a demo."""

from __future__ import annotations

from dataclasses import dataclass

from cambrian_gaze.data.media.frame_sampling import FrameSampling


@dataclass(frozen=True)
class Limits:
    """Bounds of memory and time."""

    max_file: int = 32 * 2**20
    """Largest upload in bytes."""

    max_pixels: int = 24_000_000
    """Largest picture, and largest frame of a video eight times smaller, in pixels."""

    max_visuals: int = 8
    """Pictures and videos of one conversation."""

    max_turns: int = 40
    """Questions of one conversation."""

    max_text: int = 4000
    """Characters of one question."""

    max_new_tokens: int = 128
    """Longest answer."""

    max_seconds: float = 120.0
    """Longest time for one answer; it ends there as it is."""

    max_waiting: int = 16
    """Requests that wait for the model at a time; beyond it a visitor is told so."""

    max_sessions: int = 64
    """Visitors whose conversations are kept."""

    frames: FrameSampling = FrameSampling(video_max_frames=16, video_timeout=30.0)
    """How videos become frames."""
