"""A SLURM of one node on this machine, with its daemons, keys and state in one folder, while a test needs it."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
NODE = "node1"

# The node claims more CPUs and memory than the machine may have, so that what a job asks for is judged by the profile
# and not by the machine; its two GPUs are devices that every machine has. Nothing here needs cgroups or accounting.
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
ReturnToService=1
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=16 RealMemory=64000 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The running cluster; its clients need the environment's `variables`."""

    def __init__(self, folder: Path):
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder}/bin:{_path()}"}

    def __call__(self, *command: str) -> str:
        """What a client program prints."""
        done = subprocess.run(command, env=os.environ | self.variables, check=True, text=True, capture_output=True)
        return done.stdout

    def jobs(self, state: str) -> list[str]:
        """Identifiers of the jobs in a state, such as running."""
        return self("squeue", "--noheader", f"--states={state}", "--format=%i").split()

    def node(self) -> str:
        """The node's state."""
        return self("sinfo", "--noheader", "--format=%T").strip()

    def answers(self) -> bool:
        """Whether the controller is up."""
        ping = subprocess.run(["scontrol", "ping"], env=os.environ | self.variables, capture_output=True, check=False)
        return ping.returncode == 0


def missing() -> str:
    """Why SLURM cannot be started here; empty if it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def wait_for(what: str, happened: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until something has happened.

    Raises: TimeoutError.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


@contextmanager
def start(folder: Path) -> Iterator[Slurm]:
    """Start the daemons in `folder`, whose path must be short enough for a socket; end them on leaving.

    Raises: TimeoutError if they do not get ready.
    """
    _write_configuration(folder)
    slurm = Slurm(folder)
    daemons: list[subprocess.Popen[bytes]] = []

    def launch(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as out:
            daemons.append(
                subprocess.Popen(command, env=os.environ | slurm.variables, stdout=out, stderr=out, cwd=folder)
            )

    try:
        launch("munged", "--foreground", "--force", *(f"--{k}={folder}/munge.{v}" for k, v in MUNGE.items()))
        wait_for("munged has its socket", (folder / "munge.socket").exists, seconds=60)
        launch("slurmctld", "-D", "-i")
        launch("slurmd", "-D", "-N", NODE)
        wait_for("the node is idle", lambda: slurm.answers() and slurm.node() == "idle", seconds=60)
        yield slurm
    finally:
        if len(daemons) == 3:
            _end_jobs(slurm)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        _end_what_jobs_left(folder)


MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _path() -> str:
    return os.environ["PATH"] + os.pathsep + "/usr/sbin"  # where Debian has the daemons


def _write_configuration(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    ports = _free_ports(2)
    text = CONF.format(
        folder=folder, host=socket.gethostname(), node=NODE, controller_port=ports[0], node_port=ports[1]
    )
    (folder / "slurm.conf").write_text(text)
    # Snakemake's plugin calls srun without SLURM_CONF, as if the file were at the system's place.
    srun = folder / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    devices = ("/dev/null", "/dev/zero")
    (folder / "gres.conf").write_text("".join(f"NodeName={NODE} Name=gpu File={path}\n" for path in devices))


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _end_what_jobs_left(folder: Path) -> None:
    """End the processes of jobs whose node went down, which SLURM signals but does not wait for."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if "SLURM_JOB_ID" in environment and environment.get("SLURM_CONF") == str(folder / "slurm.conf"):
                process.kill()


def _end_jobs(slurm: Slurm) -> None:
    try:
        slurm("scancel", "--full", "--signal=KILL", "--user=root")
        slurm("scancel", "--user=root")
        wait_for("no job is left", lambda: not slurm("squeue", "--noheader"), seconds=30)
    except (subprocess.CalledProcessError, TimeoutError):
        return  # the daemons end all the same
