"""Attention under a `VisiblePolicy`: which visual keys are kept, and which of them a text query may see."""
