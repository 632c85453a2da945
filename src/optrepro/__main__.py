"""Entry point of the `optrepro` command and of `python -m optrepro`."""

import os
import sys


def main() -> None:
    """Run the command, in a fork of the warm process where there is one.

    If a package is not installed, one line says which extra installs it.
    """
    if address := os.environ.get("OPTREPRO_WARM"):
        from optrepro import warm

        if (status := warm.ask(address, sys.argv[1:])) is not None:
            warm.leave(status)
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
