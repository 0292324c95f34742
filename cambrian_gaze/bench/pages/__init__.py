"""The benchmarks' pages and pictures, made of the committed results."""
