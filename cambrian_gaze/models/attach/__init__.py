"""Gaze attention on a Hugging Face model that knows nothing of it: `attach_gaze(model, {...})`.

Training-free at first; the attached model can then be fine-tuned. `families.py` says where the visual tokens of a
model family lie, `handle.py` hands them to the attention.
"""

from cambrian_gaze.models.attach.handle import AttachedGaze, attach_gaze

__all__ = ["AttachedGaze", "attach_gaze"]
