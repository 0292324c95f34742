"""Pure scorers: an answer and its target in, right or wrong out. No model, no randomness, no files."""
