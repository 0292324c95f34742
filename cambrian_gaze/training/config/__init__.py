"""What a run can be told: YAML files, flags, and the arguments they become."""
