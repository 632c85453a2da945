"""Experiments turn rows of the run table into tidy results."""
