"""The loop as a workflow: its stages in one table, and what each of them takes from the others."""
