"""Pictures and videos: files to pixels and frames, and what may be wrong with them."""
