"""From files as others publish them to our prompts, annotations and training records; one file per source."""
