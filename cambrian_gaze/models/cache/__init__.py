"""The gaze cache: visual keys by region, in device memory or paged from host memory."""
