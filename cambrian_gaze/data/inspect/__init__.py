"""Data looked at before training: checks, statistics and previews."""
