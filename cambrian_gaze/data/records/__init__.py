"""Records on disk: the forms in which they are written, row indexes, tables and streams."""
