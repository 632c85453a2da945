"""Time to plan the workflow at paper scale (`snakemake -n`). Prints the median of three."""

import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        command = ["snakemake", "--dry-run", "--quiet", "all", "--configfile", "config/paper.yaml"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    print("| what | time | asked |")
    print("|---|---|---|")
    print(f"| `snakemake -n` at paper scale | {statistics.median(times):.1f} s | at most 15 s |")


if __name__ == "__main__":
    main()
