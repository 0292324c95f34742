"""What attention costs: counted during generation, predicted by the cost model, timed."""
