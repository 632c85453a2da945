"""A sweep of 24 small-network runs: one batched process against one process each, two at a time.

Both sides go through `optrepro run` on scikit-learn's digits; only `runs_per_job` differs. Prints the ratio.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
# 8 learning rates x 3 seeds
SETTINGS = (
    "studies.gap-sgdm.learning_rates=[0.003,0.01,0.02,0.03,0.05,0.1,0.2,0.3]",
    "studies.gap-sgdm.optimizers.schedule-free=null",
    "studies.gap-sgdm.tuning_repetitions=3",
    "studies.gap-sgdm.runs_per_job={runs_per_job}",
)


def call(folder: Path, batch: str, runs_per_job: int, threads: int) -> None:
    settings = [text.format(runs_per_job=runs_per_job) for text in SETTINGS]
    overrides = [word for text in settings for word in ("--set", text)]
    command = [sys.executable, "-m", "optrepro", "run", "gap-sgdm", batch, "--config", "config/smoke.yaml", *overrides]
    command += ["--threads", str(threads), "--out", str(folder / batch / "metrics.parquet")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def batched(folder: Path) -> None:
    call(folder, "momentum-90.tune0", runs_per_job=24, threads=2)


def one_process_each(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: call(folder, f"momentum-90.tune{i}", runs_per_job=1, threads=1), range(24)))


def seconds(function: object) -> float:
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    function(folder)  # type: ignore[operator]
    elapsed = time.perf_counter() - started
    shutil.rmtree(folder)
    return elapsed


def main() -> None:
    pairs = [(seconds(one_process_each), seconds(batched)) for _ in range(3)]
    ratio = statistics.median(a / b for a, b in pairs)
    each, batch = (statistics.median(column) for column in zip(*pairs, strict=True))
    print("| what | one process each | one batched process | ratio | asked |")
    print("|---|---|---|---|---|")
    print(f"| 24 runs of a perceptron on digits | {each:.1f} s | {batch:.1f} s | {ratio:.1f} | at least 4 |")


if __name__ == "__main__":
    main()
