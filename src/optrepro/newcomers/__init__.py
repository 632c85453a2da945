"""A new optimizer of a user: whether it behaves as one, and how it does beside the published rows."""
