"""`python -m optrepro` is the `optrepro` command."""

from optrepro.cli import entry_point

entry_point()
