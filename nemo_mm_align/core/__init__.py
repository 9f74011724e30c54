"""What everything rests on: settings, errors, files, locks, processes. Knows nothing of models or data."""
