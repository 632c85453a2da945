"""Exhibits of the paper on Predicted Step Descent."""
