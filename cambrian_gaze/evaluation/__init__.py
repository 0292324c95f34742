"""Answers first, scores second: generation writes a journal of answers, scorers read it and need no model."""
