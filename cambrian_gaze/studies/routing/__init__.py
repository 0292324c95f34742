"""Where the heads of a study's arms looked, counted from the answers: recall, shifts, unions, attention mass."""
