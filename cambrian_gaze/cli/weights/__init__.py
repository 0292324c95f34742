"""Model folders made of others: published backbones, checkpoints of Cambrian, adapters, exports."""
