"""The processes that are forked from one which has everything imported."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from test_actor_pool import is_alive, wait_until

from sota_dqn import forkserver

pytestmark = pytest.mark.skipif(not forkserver.AVAILABLE, reason="processes are started otherwise")


@pytest.fixture(scope="module")
def server():
    """A server that has begun."""
    server = forkserver.ForkServer("forked", "run")
    yield server
    server.close()
    assert server.process is None


def fork(server, task, **environment):
    """Returns the child and what it has told."""
    theirs, ours = os.pipe()
    child = server.fork([ours], {"TASK": task, **environment})
    os.close(ours)
    with os.fdopen(theirs) as file:
        return child, json.loads(file.readline())


def told(server, **environment):
    """Returns what a child has told that has ended."""
    child, found = fork(server, "end", **environment)
    assert child.wait(20) == 0
    return found


def test_it_is_what_a_process_started_from_here_would_be(server, tmp_path, monkeypatch, capfd):
    told(server)  # it has begun
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, "/of/the/script"])
    monkeypatch.setenv("VARIABLE", "\udcff of this process")  # bytes that are no text
    child, found = fork(server, "say")
    assert child.wait(20) == 0
    assert found["pid"] == child.pid == found["session"] != os.getpid()
    assert found["keras"]  # is there before the function begins
    assert (found["directory"], found["path"]) == (str(tmp_path), sys.path)
    assert found["variable"] == os.environ["VARIABLE"]
    assert told(server, VARIABLE="beside")["variable"] == "beside"
    said = capfd.readouterr()
    assert "said\n" in said.out and "complained\n" in said.err


def test_it_holds_no_file_but_its_own(server):
    first, _ = fork(server, "stay")
    second, found = fork(server, "end")
    assert found["files"] == found["mine"]
    assert second.wait(20) == 0 and first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(20) == -signal.SIGKILL


def test_no_two_draw_the_same_numbers(server):
    drawn = [number for _ in range(2) for number in told(server)["random"]]
    assert len(set(drawn)) == 4


def test_exit_codes_are_told(server):
    child, _ = fork(server, "fail")
    assert child.wait(20) == child.poll() == child.wait(0) == 7
    child, _ = fork(server, "stay")
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    assert child.poll() is None
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == -signal.SIGTERM


def test_it_is_seen_to_have_died_though_what_it_started_lives(server):
    child, found = fork(server, "leave a child")
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL
    assert is_alive(found["child"])
    os.killpg(child.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(found["child"]))


def test_the_server_dies(server):
    child, _ = fork(server, "stay")
    before = server.process
    before.kill()
    assert child.wait(20) == "unknown" and child.poll() == "unknown"
    assert is_alive(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    before.wait()
    assert told(server)["keras"]  # by a new one
    assert server.process.pid != before.pid


def test_it_never_begins(server):
    """The server dies before it has read what it is asked for."""
    os.kill(server.process.pid, signal.SIGSTOP)
    theirs, ours = os.pipe()
    child = server.fork([ours], {"TASK": "end"})
    for number in (theirs, ours):
        os.close(number)
    server.process.kill()
    server.process.wait()
    assert child.pid is None
    assert child.wait(20) == "unknown"


def test_many_are_asked_for_at_once(server, monkeypatch):
    """A process may have so many descriptors on their way and no more, until the server takes them."""
    send, refusals = socket.send_fds, [errno.ETOOMANYREFS] * 2

    def refuse(*arguments):
        if refusals:
            raise OSError(refusals.pop(), "refused")
        return send(*arguments)

    monkeypatch.setattr(socket, "send_fds", refuse)
    told(server)
    refusals.append(errno.EBADF)
    with pytest.raises(OSError, match="refused"):
        server.fork([], {"TASK": "end"})
