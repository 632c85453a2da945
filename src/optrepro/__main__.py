"""`python -m optrepro` is the `optrepro` command."""

import sys


def main() -> None:
    """Run the command; where what it imports is not installed, say in one line which extra brings it."""
    try:
        # Not above: who installs the optimizers alone has none of what the command imports.
        from optrepro.cli import entry_point

        entry_point()
    except ModuleNotFoundError as error:
        missing = (error.name or "optrepro").partition(".")[0]
        if missing == "optrepro":
            raise
        print(
            f"error: {missing} is not installed; the command needs an extra: pip install 'optrepro[experiments]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
