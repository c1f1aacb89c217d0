"""Training and evaluation: tasks, optimizers, sharding, checkpoints, metrics."""
