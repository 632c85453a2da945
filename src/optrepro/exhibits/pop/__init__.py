"""Exhibits of the paper on POP."""
