"""Questions to language models: what is asked and answered, who answers (`clients`), and how thousands of calls are run."""
