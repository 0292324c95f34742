"""Charts: SVG for pages, PNG for folders."""
