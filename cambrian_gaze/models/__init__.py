"""Vision tower, projector, context tokens, gaze cache and the classes that Hugging Face users expect."""
