"""Clients of language models, one per kind of service; each takes a `Question` and gives an `Answer`."""
