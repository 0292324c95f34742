"""Settings of a run: YAML files, flags, and the arguments they become."""
