"""What stands in `mm_token_type_ids` and `labels`: the one place that says so.

The type of a token is a fact of the model's input, as transformers has it. Its role (`layout`: padding, text, visual,
context) is derived from type and attention mask, and numbered by itself.
"""

from __future__ import annotations

TEXT_TYPE, IMAGE_TYPE, VIDEO_TYPE, CONTEXT_TYPE = 0, 1, 2, 3
"""Values of `mm_token_type_ids`: text and padding, image patch, video patch, context token."""

VISUAL_TYPES = {"image": IMAGE_TYPE, "video": VIDEO_TYPE}
"""Kind of a message's part or placeholder → type of its visual tokens; also the modality of their regions."""

IGNORED_LABEL = -100
"""Label of a token that is not supervised; transformers' own value."""
