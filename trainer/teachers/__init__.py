"""Teachers: our checkpoints, models of transformers, and caches of what either of them predicted."""
