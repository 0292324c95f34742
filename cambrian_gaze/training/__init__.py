"""Training: stage 1 (projector and context tokens) and stage 2 (full parameter) on Hugging Face Trainer.

`run.py` is the table of contents; nothing is imported here, so that `cambrian_gaze.training.config.config` stays light.
"""
