"""How good a model tells attributes: against its judge, beside a repetition of that judge, shuffled images and a probe."""
