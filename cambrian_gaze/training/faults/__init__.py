"""What goes wrong in long runs: steps that are not finite, hangs, orphans, two runs in one folder."""
