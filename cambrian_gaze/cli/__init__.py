"""The `cambrian-gaze` command. Thin: each subcommand is imported when it is asked for, and no sooner."""
