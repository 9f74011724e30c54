"""How good annotations are: their distribution and biases, and how far judges, people and repetitions agree."""
