"""Labelling: judges score the candidates of each prompt, a ledger remembers every attempt, a runner drives both."""
