"""An optimizer from outside the package, whose steps take their time until the file `hurry` is there."""

import os
import time
from pathlib import Path

import torch

PAUSE = 0.3


class SlowSGD(torch.optim.SGD):
    """SGD; the folder `OPTREPRO_TEST_PACE`, where it is set, gets a line in `steps` for each step."""

    def step(self, closure=None):
        """Take a step, and beforehand a pause."""
        if pace := os.environ.get("OPTREPRO_TEST_PACE"):
            with (Path(pace) / "steps").open("a") as file:
                file.write(f"{os.getpid()}\n")
            end = time.monotonic() + PAUSE
            while time.monotonic() < end and not (Path(pace) / "hurry").exists():
                time.sleep(0.02)
        return super().step(closure)
