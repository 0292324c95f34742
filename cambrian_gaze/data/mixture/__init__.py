"""What a run reads: sources and weights, the rows chosen of each, and the plan of an epoch."""
