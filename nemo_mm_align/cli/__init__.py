"""What the entry points share: errors in one sentence, Hydra applications, their help."""
