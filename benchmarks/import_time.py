"""What `import optrepro.optimizers` costs beyond `import torch`. Prints a table.

Fresh processes, in pairs whose order alternates, so that a machine that gets slower or faster does so for both. A time
is that of the whole process, so that what an import makes the interpreter do at its end counts too.
"""

import argparse
import statistics
import subprocess
import sys
import time

ASKED = 0.3  # seconds at most
TORCH, OURS = "import torch", "import torch, optrepro.optimizers"


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=11)
    arguments = parser.parse_args()

    times: dict[str, list[float]] = {TORCH: [], OURS: []}
    for pair in range(arguments.pairs + 1):
        for code in (TORCH, OURS) if pair % 2 else (OURS, TORCH):
            times[code].append(seconds(code))
    torch_alone, ours = (times[code][1:] for code in (TORCH, OURS))  # the first pair fills the caches
    difference = statistics.median(b - a for a, b in zip(torch_alone, ours, strict=True))

    print("| a process with | time | asked | |")
    print("|---|---|---|---|")
    print(f"| `{TORCH}` | {statistics.median(torch_alone):.2f} s | | |")
    print(f"| `{OURS}` | {statistics.median(ours):.2f} s | | |")
    verdict = "pass" if difference <= ASKED else "miss"
    print(f"| the difference, median of {arguments.pairs} pairs | {difference:.2f} s | at most {ASKED} s | {verdict} |")


if __name__ == "__main__":
    main()
