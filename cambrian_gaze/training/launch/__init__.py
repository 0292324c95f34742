"""How the ranks of a run are started, and how they are asked to stop."""
