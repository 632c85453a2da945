"""From rows of the run table to tidy results."""
