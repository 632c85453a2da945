"""Checks that two processes run together: started once for all of them, each check in a process group of its own.

A check is a function in a test module, marked with `on_two_ranks`, whose body both ranks run. The test of the same name
fails with what either of them has raised. A check that fails on one rank ends the other's wait for it.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from tests.optimizers.registry import Make, named

WORLD = 2
ROOT = Path(__file__).parents[2]
CHECKS: dict[str, Callable[[Path], None]] = {}


def on_two_ranks(*names: str, folder: bool = False) -> Callable[[Callable[..., None]], Any]:
    """Have two ranks run the function, for each configuration named; a `folder` is shared by both and by the parent."""

    def decorate(check: Callable[..., None]) -> Any:
        for name in names or [""]:
            arguments = [named(name)] if name else []
            key = f"{check.__name__}[{name}]" if name else check.__name__
            CHECKS[key] = functools.partial(_call, check, arguments, folder)

        def test(outcomes: dict[str, list[str]], request: pytest.FixtureRequest) -> None:
            raised = [text for text in outcomes[request.node.name] if text]
            if raised:
                pytest.fail("\n".join(raised), pytrace=False)

        def parametrized(make: Make, outcomes: dict[str, list[str]], request: pytest.FixtureRequest) -> None:
            test(outcomes, request)

        if names:
            return pytest.mark.parametrize("make", [pytest.param(named(name), id=name) for name in names])(parametrized)
        return test

    return decorate


def _call(check: Callable[..., None], arguments: Sequence[Any], folder: bool, path: Path) -> None:
    check(*arguments, **({"folder": path} if folder else {}))


def run(module: str, keys: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """What each rank has raised in each check, "" for nothing."""
    command = [sys.executable, "-m", __name__, module, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(rank)], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(WORLD)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(list(keys)))
            process.stdin.close()
        errors = [process.stderr.read()[-3000:] for process in processes]  # type: ignore[union-attr]
        for process in processes:
            process.wait(timeout=600)
    finally:
        for process in processes:
            process.kill()
    found = [_read(folder / f"{rank}.json") for rank in range(WORLD)]
    return {
        key: [raised.get(key, f"never ran; {error}") for raised, error in zip(found, errors, strict=True)]
        for key in keys
    }


def _read(path: Path) -> dict[str, str]:
    return json.loads(path.read_text()) if path.exists() else {}


def main(module: str, folder: Path, rank: int) -> None:
    """The program of a rank."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    importlib.import_module(module)
    from tests.optimizers.ranks import CHECKS  # this module, as the test module has imported it

    raised: dict[str, str] = {}
    for number, key in enumerate(json.loads(sys.stdin.read())):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        _meet(place, rank)
        try:
            store = f"file://{place}/store"
            dist.init_process_group(
                "gloo", init_method=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=30)
            )
            CHECKS[key](place)
            raised[key] = ""
        except BaseException:
            raised[key] = f"rank {rank}: {traceback.format_exc()}"
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        (folder / f"{rank}.json").write_text(json.dumps(raised))


def _meet(place: Path, rank: int) -> None:
    """Wait for the other, which may still have waited in vain in the check before."""
    (place / f"ready-{rank}").touch()
    until = time.monotonic() + 120
    while len(list(place.glob("ready-*"))) < WORLD and time.monotonic() < until:
        time.sleep(0.002)


def everywhere(value: Any) -> list[Any]:
    """The value that each rank has."""
    values = [None] * WORLD
    dist.all_gather_object(values, value)
    return values


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
