"""Data sets: finding, downloading and checking their files, and reading them as tensors."""
