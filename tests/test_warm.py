"""A command in a fork of the warm process is what it would be by itself, and ends with either of the two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optrepro import warm

pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason="there are warm processes on Linux only")

SERVER = """
import json, os, signal, socket, sys, time
from optrepro import warm

def command():
    word = sys.argv[1]
    if word == "tell":
        recursive = warm.VARIABLE in os.environ
        print(json.dumps([sys.argv, os.getcwd(), os.environ.get("COLOUR"), recursive, sys.stdin.read()]))
        print("to the other stream", file=sys.stderr)
    elif word == "leave":
        sys.exit(int(sys.argv[2]))
    elif word == "raise":
        raise ValueError("wrong")
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        print(os.getpid(), flush=True)
        time.sleep(60)

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
warm.serve(listener, {"tell": ["colorsys", "there_is_no_such_module"]}, command)
"""
CLIENT = "import sys; from optrepro import warm; warm.leave(warm.ask(sys.argv[1], sys.argv[2:]))"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A warm process with a command of its own, whose socket is `warm.sock` in the test's folder."""
    command = [sys.executable, "-c", SERVER, str(tmp_path / "warm.sock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def call(server: subprocess.Popen[str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A command in a fork of the warm process."""

    def started(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLIENT, str(tmp_path / "warm.sock"), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, cwd=tmp_path, env={**os.environ, "COLOUR": "blue"}, **pipes)

    return started


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    """Whether a process ends within 10 seconds."""
    deadline = time.monotonic() + 10
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


def sleeper(call: Callable[..., subprocess.Popen[str]]) -> tuple[subprocess.Popen[str], int]:
    """A command that goes on until it is stopped, and the process that carries it out."""
    process = call("sleep")
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_command_has_the_arguments_folder_environment_and_streams_of_the_one_who_asked(
    call: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    for _ in range(2):  # a fork leaves nothing behind that the next one would see
        process = call("tell", "--all", "a word")
        printed, errors = process.communicate("what is read")
        expected = [["optrepro", "tell", "--all", "a word"], str(tmp_path), "blue", False, "what is read"]
        assert (json.loads(printed), errors, process.returncode) == (expected, "to the other stream\n", 0)


@pytest.mark.parametrize(("arguments", "status"), [(("leave", "3"), 3), (("leave", "0"), 0), (("raise",), 1)])
def test_its_exit_status_is_the_commands(
    arguments: tuple[str, ...], status: int, call: Callable[..., subprocess.Popen[str]]
) -> None:
    process = call(*arguments)
    _, errors = process.communicate()
    assert process.returncode == status
    assert ("ValueError: wrong" in errors) == (arguments == ("raise",))


def test_two_commands_run_at_the_same_time(call: Callable[..., subprocess.Popen[str]]) -> None:
    (first, pid), (second, other) = sleeper(call), sleeper(call)
    assert pid != other
    assert runs(pid)
    assert runs(other)
    for process in (second, first):
        process.terminate()
        assert process.wait(timeout=10) == 75


def test_a_signal_is_passed_on_and_one_that_ends_the_command_ends_the_one_who_asked(
    call: Callable[..., subprocess.Popen[str]],
) -> None:
    process, pid = sleeper(call)
    process.terminate()
    assert process.wait(timeout=10) == 75  # the command's own answer to SIGTERM
    process, pid = sleeper(call)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_a_command_ends_when_the_one_who_asked_is_killed(call: Callable[..., subprocess.Popen[str]]) -> None:
    process, pid = sleeper(call)
    process.kill()
    assert ends(pid)
    process = call("leave", "0")  # and others go on
    process.communicate()
    assert process.returncode == 0


def test_a_command_ends_when_the_warm_process_is_killed(
    server: subprocess.Popen[str], call: Callable[..., subprocess.Popen[str]]
) -> None:
    process, pid = sleeper(call)
    server.kill()
    assert ends(pid)
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_the_warm_process_ends_with_its_standard_input(server: subprocess.Popen[str]) -> None:
    server.communicate(timeout=10)
    assert server.returncode == 0


def test_where_none_answers_the_command_does_the_work_itself(tmp_path: Path) -> None:
    assert warm.ask(str(tmp_path / "warm.sock"), ["tell"]) is None
    environment = {**os.environ, warm.VARIABLE: str(tmp_path / "warm.sock")}
    command = [sys.executable, "-m", "optrepro", "--version"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.startswith("0.")


def test_the_warm_process_of_a_workflow_carries_out_commands_and_ends_with_it(tmp_path: Path) -> None:
    asking = (
        "import os, subprocess, sys; from pathlib import Path; from optrepro import warm;"
        "warm.start(Path('folder', 'warm.sock'), {'plan': ['optrepro.config']});"
        "print(Path('folder', 'warm.sock').stat().st_mode & 0o777, flush=True);"
        "subprocess.run([sys.executable, '-m', 'optrepro', '--version'], check=True);"
        "subprocess.run(['pgrep', '--parent', str(os.getpid()), '--full', 'optrepro.warm'], check=True)"
    )
    printed = subprocess.run([sys.executable, "-c", asking], cwd=tmp_path, capture_output=True, text=True, check=True)
    mode, version, pid = printed.stdout.split("\n")[:3]
    assert (mode, version[:2]) == (str(0o600), "0.")
    assert not runs(int(pid))
