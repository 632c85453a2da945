"""What is optimized. A problem knows nothing of optimizers."""
