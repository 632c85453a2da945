"""What every experiment uses: its context, checkpoints, tidy rows, optimizers and data."""
