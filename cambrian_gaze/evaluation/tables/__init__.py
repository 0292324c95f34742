"""A table of the paper: columns scored with intervals, a row filled, and its report."""
