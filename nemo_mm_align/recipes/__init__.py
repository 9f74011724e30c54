"""Training methods: what a sample is, what its loss is, and the step and host that they share."""
