"""Works through the jobs of studies on the cores and GPUs of this machine, in processes forked from a warm one."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NamedTuple

from optrepro import layout
from optrepro.config import Config
from optrepro.conventions import TIME_IS_UP
from optrepro.experiments import jobs
from optrepro.experiments.base import shared
from optrepro.experiments.base.progress import reporter
from optrepro.experiments.jobs import Address, Job, Jobs
from optrepro.store import Entry
from optrepro.studies.base import Batch

STOPPED = (TIME_IS_UP, 128 + signal.SIGTERM, -signal.SIGTERM)  # the state is saved, and the next attempt resumes
_fork = multiprocessing.get_context("fork")

Report = Callable[[str], None]


@dataclass
class Outcome:
    """What was done and what was not, by the addresses of batches.

    Attributes:
        stored: results that were in the store.
        finished: jobs that ran to their end.
        failed: jobs that failed, with their error in a line.
        waiting: jobs that did not run or did not end, because the time was up or what they need failed.
        collected: studies whose tidy results are there.
    """

    stored: list[Address] = field(default_factory=list)
    finished: list[Address] = field(default_factory=list)
    failed: dict[Address, str] = field(default_factory=dict)
    waiting: list[Address] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)


def work(
    config: Config,
    studies: Sequence[str],
    workers: int = 1,
    seconds: float | None = None,
    report: Report = print,
) -> Outcome:
    """Run all jobs of the studies, and those that they need, that are not in the store; then collect the studies.

    A job runs in a process of its own. The first repetition of everything comes before the second one, and so on, and
    what others need comes before them. A job that fails stops only those that need it.

    Args:
        config: the config of the scale.
        studies: names of studies.
        workers: number of jobs at the same time; jobs on a GPU run one on each.
        seconds: time after which no job starts, and those that run save their state and stop.
        report: called with one line for each thing that happens.

    Raises: KeyboardInterrupt or SystemExit on SIGINT or SIGTERM, after the jobs that run have saved their state.
    """
    return _Shift(config, studies, workers, seconds, report).run()


class Running(NamedTuple):
    """A job that runs, the GPU that it has, and where the reason comes from if it fails."""

    job: Job
    gpu: str | None
    reason: Connection


class _Shift:
    """One call of `work`."""

    def __init__(self, config: Config, studies: Sequence[str], workers: int, seconds: float | None, report: Report):
        self.config, self.studies, self.workers, self.report = config, studies, workers, report
        self.ends = None if seconds is None else time.monotonic() + seconds
        self.jobs = Jobs(config)
        asked = [batch for study in studies for batch in self.jobs.batches(study)]
        self.blocked = sorted(self.jobs.with_needed(asked), key=_priority)  # batches that need results of others
        self.ready: list[Job] = []
        self.running: dict[BaseProcess, Running] = {}
        self.free_gpus = jobs.gpus()
        self.warm: set[str] = set()
        self.outcome = Outcome()
        self.total = len(self.blocked)

    def run(self) -> Outcome:
        """Work until everything is done that can be done."""
        with self._stopping_together():
            while True:
                self._sort_out()
                self._start()
                if not self.running:
                    break
                ended = wait([process.sentinel for process in self.running])
                for process in [process for process in self.running if process.sentinel in ended]:
                    self._end(process)
        self.outcome.waiting += [batch.address for batch in self.blocked] + [job.batch.address for job in self.ready]
        for study in self.studies:
            if all(self.jobs.finished(batch) for batch in self.jobs.batches(study)):
                _collect(self.jobs, study)
                self.outcome.collected.append(study)
        return self.outcome

    def _sort_out(self) -> None:
        """Take from the store what is there, and find the batches that can run now."""
        blocked: list[Batch] = []
        for batch in self.blocked:
            job = self.jobs.job(batch)
            if job is None:
                blocked.append(batch)
            elif (entry := self.jobs.finished(batch)) is not None:
                place(self.jobs, batch, entry)
                self.outcome.stored.append(batch.address)
            else:
                self.ready.append(job)
        again = len(blocked) < len(self.blocked)
        self.blocked = blocked
        if again:  # what was found in the store may be what others need
            self._sort_out()

    def _start(self) -> None:
        """Start the first jobs that are ready and have room."""
        for job in list(self.ready):
            if self.ends is not None and time.monotonic() >= self.ends:
                return
            if self._has_room(job):
                self.ready.remove(job)
                self._fork(job)

    def _has_room(self, job: Job) -> bool:
        """Whether a job may start beside those that run; one that measures time runs alone."""
        beside = [running.job for running in self.running.values()]
        if beside and any(self.config.studies[j.batch.study].timed for j in (job, *beside)):
            return False
        return len(beside) < self.workers and (job.device != "cuda" or bool(self.free_gpus))

    def _fork(self, job: Job) -> None:
        self._warm_up(job.batch.study)
        gpu = self.free_gpus.pop(0) if job.device == "cuda" else None
        seconds = None if self.ends is None else max(0.0, self.ends - time.monotonic())
        receiver, sender = _fork.Pipe(duplex=False)
        process = _fork.Process(target=_child, args=(self.jobs, job, gpu, seconds, sender))
        process.start()
        sender.close()
        layout.failure(job.key).unlink(missing_ok=True)
        self.running[process] = Running(job, gpu, receiver)

    def _warm_up(self, name: str) -> None:
        """Load what all jobs of a study need, once, so that the processes that are forked find it in memory."""
        if name in self.warm:
            return
        self.warm.add(name)
        import torch

        torch.set_num_threads(1)  # threads of a process that forks would be missing in its children
        study = self.config.studies[name]
        runner = importlib.import_module(study.runner)
        if not any(batch.study == name for batch in [*(job.batch for job in self.ready), *self.blocked]):
            return  # this job is the last one of the study, and shares nothing
        importlib.import_module("torch._dynamo")  # the first step of any optimizer of torch would import it
        if hasattr(runner, "prepare") and jobs.device_of(self.config.device, study) == "cpu":
            with shared.keeping():
                runner.prepare(study, self.jobs.batches(name), self.config)

    def _end(self, process: BaseProcess) -> None:
        process.join()
        running = self.running.pop(process)
        job = running.job
        if running.gpu is not None:
            self.free_gpus.insert(0, running.gpu)
        address, name = job.batch.address, "/".join(job.batch.address)
        if process.exitcode == 0 and self.jobs.finished(job.batch) is not None:
            self.outcome.finished.append(address)
            done = len(self.outcome.stored) + len(self.outcome.finished)
            self.report(f"{name} is done ({done} of {self.total})")
        elif process.exitcode in STOPPED:
            self.outcome.waiting.append(address)
            self.report(f"{name} saved its state and goes on next time")
        else:
            reason = _why(process.exitcode, running.reason)
            self.outcome.failed[address] = reason
            with suppress(OSError):  # the disk may be what failed
                layout.failure(job.key).parent.mkdir(parents=True, exist_ok=True)
                layout.failure(job.key).write_text(f"{reason}\n")
            self.report(f"{name} failed: {reason} (log: {layout.log(self.config.scale, *address)})")

    @contextmanager
    def _stopping_together(self) -> Iterator[None]:
        """On SIGINT and SIGTERM, and whatever else ends the block, let the running jobs save their state and stop."""

        def stop(number: int, _: FrameType | None) -> None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for process in self.running:
                process.terminate()
            for process in self.running:
                process.join()
            for number, handler in before.items():
                signal.signal(number, handler)


def _priority(batch: Batch) -> int:
    """The repetition that a batch begins with; batches of equal priority keep their order."""
    return min((run.repetition for run in batch.runs), default=0)


def _child(found: Jobs, job: Job, gpu: str | None, seconds: float | None, reason: Connection) -> None:
    """Carry out a job in a process of its own, which writes to the log of the batch and ends with its parent.

    If the job fails, a line on the error is sent to `reason`.
    """
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes it on, as SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = layout.log(found.config.scale, *job.batch.address)
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    for descriptor in (1, 2):  # libraries in C write there
        os.dup2(sys.stdout.fileno(), descriptor)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        carry_out(found, job, seconds)
    except Exception as error:
        reason.send(" ".join(f"{type(error).__name__}: {error}".split()))
        traceback.print_exc()
        sys.exit(1)


def _end_with_parent() -> None:
    """Have the system send SIGTERM to this process when its parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _why(status: int | None, reason: Connection) -> str:
    """Why a process that ended with this status has failed, in a line."""
    if reason.poll():
        with suppress(EOFError):
            return str(reason.recv())
    if status is not None and status < 0:
        hint = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-status).name}{hint}"
    return f"its process ended with status {status}"


def carry_out(found: Jobs, job: Job, seconds: float | None = None, threads: int = 1) -> Entry:
    """Carry out a job in this process with so many threads of torch, and copy its results to their place.

    One thread is meant for all jobs: their number decides the last bits of results, and times that are measured with
    one depend neither on the machine's number of cores nor much on what else it does.
    """
    import torch

    from optrepro.experiments import run

    torch.set_num_threads(threads)
    entry = run.carry_out(found.config, job, found.store, seconds, reporter())
    place(found, job.batch, entry)
    return entry


def place(found: Jobs, batch: Batch, entry: Entry) -> None:
    """Copy the results of a batch to their place in the results of the scale."""
    entry.copy_to(layout.metrics(found.config.scale, *batch.address).parent)


def _collect(found: Jobs, study_id: str) -> None:
    """Collect a study's tidy results from those of its batches, unless the store has them already."""
    config, tidy = found.config, layout.tidy(found.config.scale, study_id)
    key = found.key_of_study(study_id)
    entry = found.store.get(key)
    if entry is None:
        from optrepro.experiments import collect

        metrics = [layout.metrics(config.scale, *batch.address) for batch in found.batches(study_id)]
        entry = found.store.put(key, collect.collect(config, study_id, metrics, tidy))
    entry.copy_to(tidy.parent)
