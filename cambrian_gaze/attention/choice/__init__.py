"""Which backend `auto` takes: trials of the candidates, their kept outcomes, and the choice of a run."""
