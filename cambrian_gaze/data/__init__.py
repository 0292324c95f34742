"""From records on disk to batches of tensors.

The way of a sample, one module each, from the draw of a row to the batch: `mixture/plan` (which rows, in which order)
→ `mixture/mixture` (row of the whole → source and row) → `dataset` (record → sample) → `records/records` with `index`
and `forms` → `conversation` → `encode` with `expand` → `media/image_files` or `media/video` → `media/aspect` (pixels)
→ `collator`. What cannot be read is set aside and logged by `quarantine`, never replaced; `errors` says why.
"""
