"""Part ``lengths``: steps on global batches as unequally long as the paper's data, against TRL and transformers."""
