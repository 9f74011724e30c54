"""The study: when to use which method, as many small trainings on the miniature world, compared over seeds."""
