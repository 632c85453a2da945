"""A warm process, from which the jobs of a workflow are forked.

Most jobs are shorter than the start of Python with pandas, matplotlib and torch. So the workflow starts one process
that imports these once. While the environment variable ``OPTREPRO_WARM`` names its socket, the command ``optrepro``
only hands over its arguments, folder, environment and standard streams, and waits; a fork of the warm process does the
work, and ends when either of the two ends. Where no warm process answers, the command does the work itself.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

VARIABLE = "OPTREPRO_WARM"
POSSIBLE = sys.platform == "linux"  # elsewhere a fork could outlive the two processes that it belongs to
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LENGTH = struct.Struct("!I")
_STATUS = struct.Struct("!i")
_fork = multiprocessing.get_context("fork")
_started: list[
    subprocess.Popen[bytes]
] = []  # a warm process ends when its standard input, which is held here, is closed


def start(address: Path, modules: Mapping[str, Sequence[str]]) -> None:
    """Start a warm process, and name its socket in the environment. It ends with this process.

    Args:
        address: path of the socket, which the owner alone may use.
        modules: what to import before the first fork for a command of ``optrepro``, by the command's name.

    Raises: OSError if there can be no socket at this place.
    """
    address.parent.mkdir(parents=True, exist_ok=True)
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        address.chmod(0o600)
        listener.listen()  # from now on commands wait for the process instead of missing it
        arguments = [sys.executable, "-m", "optrepro.warm", str(listener.fileno()), json.dumps(modules)]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    atexit.register(process.communicate)  # its input ends and so does it; its time is then counted as this process's
    os.environ[VARIABLE] = str(address)


def ask(address: str, arguments: Sequence[str]) -> int | None:
    """Have the warm process carry out a command with the folder, environment and standard streams of this process.

    Signals that ask this process to stop are passed on.

    Returns: the command's exit status, negative for a signal that ended it; None if no warm process answers.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        request = json.dumps([list(arguments), os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(connection, [_LENGTH.pack(len(request))], [0, 1, 2])
        connection.sendall(request)

        def pass_on(number: int, _: FrameType | None) -> None:
            with suppress(OSError):  # the work is done
                connection.send(bytes([number]))

        for number in _PASSED_ON:
            signal.signal(number, pass_on)
        answer = connection.recv(_STATUS.size, socket.MSG_WAITALL)
    if len(answer) < _STATUS.size:
        return -signal.SIGKILL  # the warm process was killed, and what it forked with it
    return int(_STATUS.unpack(answer)[0])


def leave(status: int) -> None:
    """End this process as another one has ended: with its exit status, or by the signal that ended it."""
    if status < 0:
        with suppress(OSError):  # no process can handle SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(listener: socket.socket, modules: Mapping[str, Sequence[str]], carry_out: Callable[[], Any]) -> None:
    """Fork a process for each command that a connection asks for, until standard input ends.

    Args:
        listener: a socket that listens.
        modules: what to import before the first fork for a command, by the command's name.
        carry_out: called in the forked process, whose arguments, folder, environment and streams are those asked for.
    """
    for number in _PASSED_ON:
        signal.signal(number, signal.SIG_IGN)  # they are for the commands, which pass them on
    working: dict[BaseProcess, socket.socket] = {}
    while True:
        ready = wait([sys.stdin.fileno(), listener, *working.values(), *(process.sentinel for process in working)])
        if sys.stdin.fileno() in ready:
            return
        for process, connection in list(working.items()):
            if process.sentinel in ready:
                _answer(process, connection)
                del working[process]
            elif connection in ready:
                _pass_on(process, connection)
        if listener in ready:
            connection, _ = listener.accept()
            with suppress(OSError, ValueError):  # the command has ended already
                arguments, folder, environment, streams = _receive(connection)
                _warm_up(modules.get(arguments[0] if arguments else "", ()))
                closed = [listener, connection, *working.values()]
                target = (arguments, folder, environment, streams, closed, carry_out)
                process = _fork.Process(target=_child, args=target)
                process.start()
                for stream in streams:
                    os.close(stream)
                working[process] = connection


def _receive(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    with connection.makefile("rb") as file:
        arguments, folder, environment = json.loads(file.read(*_LENGTH.unpack(head)))
    return arguments, folder, environment, streams


def _warm_up(modules: Sequence[str]) -> None:
    for name in [name for name in modules if name not in sys.modules]:
        with suppress(ImportError):  # the command will say what is missing
            importlib.import_module(name)
            gc.freeze()  # what is there now stays, so that its pages remain shared with the processes that are forked


def _child(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    streams: list[int],
    closed: list[socket.socket],
    carry_out: Callable[[], Any],
) -> None:
    """Become the process that the command would be."""
    _end_with_parent()
    os.setpgid(0, 0)  # so that a signal for the whole group comes once: as the command passes it on
    for number in _PASSED_ON:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for each in closed:
        each.close()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    environment.pop(VARIABLE, None)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["optrepro", *arguments]
    if threads := environment.get("OMP_NUM_THREADS"):  # the libraries read it when they were imported
        from threadpoolctl import threadpool_limits

        threadpool_limits(int(threads))
    carry_out()


def _end_with_parent() -> None:
    """Have the system kill this process when its parent ends, however it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _pass_on(process: BaseProcess, connection: socket.socket) -> None:
    """Send a signal to the process that its command has received, or SIGKILL if the command is no more."""
    numbers = connection.recv(1)
    if process.pid is not None:
        os.kill(process.pid, numbers[0] if numbers else signal.SIGKILL)
    if not numbers:
        process.join()


def _answer(process: BaseProcess, connection: socket.socket) -> None:
    process.join()
    with connection, suppress(OSError):
        connection.sendall(_STATUS.pack(process.exitcode or 0))


def _main() -> None:
    from optrepro.cli import entry_point

    descriptor, modules = sys.argv[1:]
    serve(socket.socket(fileno=int(descriptor)), json.loads(modules), entry_point)


if __name__ == "__main__":
    _main()
