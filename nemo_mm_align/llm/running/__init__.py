"""How many calls are run: workers, retries, limits per minute, a budget, a clean stop, progress."""
