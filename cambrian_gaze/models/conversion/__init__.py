"""Models from other models: published backbones, and checkpoints of LLaVA, Cambrian and Cambrian-S, both ways."""
