"""One row of a table from nothing: its training runs, their evaluation and the table, each a command of its own."""
