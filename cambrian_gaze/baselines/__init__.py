"""Published ways to keep less of the visual cache, and controls: what gaze is compared with.

Each is a `VisiblePolicy` in a file of its own, named in `registry.POLICIES`.
"""
