"""What the experiments measure gradients with: their autocorrelation, and the static families."""
