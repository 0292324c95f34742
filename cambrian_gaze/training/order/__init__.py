"""Which samples each step of each rank reads, and where a run stands in them."""
