"""Training data: sources, builders of the four training sets, length plan, collation."""
