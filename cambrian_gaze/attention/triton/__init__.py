"""The `triton` backend: its plan, its kernels and how they are launched."""
