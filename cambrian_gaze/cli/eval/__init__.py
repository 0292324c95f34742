"""`cambrian-gaze eval`: benchmarks answered, scored and put into tables."""
