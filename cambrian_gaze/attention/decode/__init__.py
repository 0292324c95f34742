"""One decoding step per row: the reference in plain torch, and its faster ways on CPUs and GPUs."""
