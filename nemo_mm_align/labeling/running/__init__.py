"""Making the calls: workers, limits, budget, back-off, progress."""
