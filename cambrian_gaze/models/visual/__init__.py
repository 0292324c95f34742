"""From the tower's features to the tokens that take the place of a picture's placeholders."""
