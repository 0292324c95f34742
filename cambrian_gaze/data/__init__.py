"""From records on disk to batches of tensors.

The way of a sample, one module each: `records` → `media` and `video` → `images` → `conversation` → `encode` (with
`expand`) → `dataset` → `collator`. What cannot be read is set aside and logged by `quarantine`, never replaced.
"""
