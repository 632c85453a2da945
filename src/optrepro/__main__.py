"""Entry point of the `optrepro` command and of `python -m optrepro`."""

import sys


def main() -> None:
    """Run the command; if a package is not installed, print in one line which extra installs it."""
    try:
        # Imported here because an installation without extras lacks the packages that the command imports.
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
