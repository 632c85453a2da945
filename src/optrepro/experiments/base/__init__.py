"""Parts that all experiments share: context, checkpoints, tidy rows, optimizers and data."""
