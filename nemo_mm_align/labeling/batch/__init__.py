"""Offline batches: requests written to files that a service takes as a batch, its replies read into the ledger."""
