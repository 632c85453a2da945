"""From tidy results to tables."""
