"""A training run from configuration to checkpoint: data, steps, reference log-probs, and the Trainer that hosts them."""
