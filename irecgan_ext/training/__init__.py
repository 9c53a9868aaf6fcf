"""Training of the three models, with checkpoints, metrics and progress."""
