"""The whole way on handwritten digits: pages, a tower that sees, both stages, evaluation and a report."""
