"""Models where people and programs can ask them: an OpenAI-compatible server, its playground, a terminal."""
