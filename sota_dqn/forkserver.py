"""Processes that have everything imported when they begin: forks of one process that does nothing else.

To import Keras and its backend takes seconds of a core and hundreds of megabytes. One process takes them here, whatever
the number of actors, which share its pages until they write to them. It computes nothing and so has a single thread:
that is what makes it safe to fork, where the learner is not. Python's own fork server would import the user's script,
which may start the training.
"""

import atexit
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

__all__ = ["AVAILABLE", "Child", "ForkServer", "begin", "spawn"]

AVAILABLE = sys.platform == "linux"  # elsewhere libraries of the system do not survive a fork


class ForkServer:
    """A process that is started when it is first needed, again if it has died, and ends with this one.

    Args:
        module: The module that it imports.
        function: The name of its function that each forked process calls, with the numbers of its files.
    """

    def __init__(self, module, function):
        self.module = module
        self.function = function
        self.process: subprocess.Popen | None = None
        self._control: Any = None  # the socket through which it is asked
        self._lock = threading.Lock()

    def fork(self, files, environment):
        """Starts a process and returns its `Child`.

        Args:
            files: The descriptors that it gets copies of.
            environment: Environment variables beside those of this process. Those which libraries read when they are
                imported are what they were when the server began.
        """
        standard = [number for number in (1, 2) if _is_open(number)]
        settings = {
            "path": [str(path) for path in sys.path],
            "environment": {**os.environ, **environment},
            "standard": standard,
        }
        ours, theirs = os.pipe()
        told, here = os.memfd_create("settings"), os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.write(told, json.dumps(settings).encode())
            with self._lock:
                if self.process is None or self.process.poll() is not None:
                    self._start(environment)
                self._send([theirs, told, here, *standard, *files])
        except BaseException:
            os.close(ours)
            raise
        finally:
            for number in (theirs, told, here):
                os.close(number)
        return Child(ours)

    def _send(self, files):
        """Asks for a process that gets copies of `files`."""
        while True:
            try:
                socket.send_fds(self._control, [b"f"], files)
            except ConnectionError:  # it has just died, and so has the child
                pass
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(0.05)  # until it has taken some of the files that are on their way
                continue
            return

    def close(self):
        """Ends the server, not what it has forked."""
        with self._lock:
            self._end()

    def _end(self):
        if self.process is not None:
            self._control.close()
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self, environment):
        self._end()
        self._control, theirs = socket.socketpair()
        source = (
            f"from {self.module} import {self.function} as function; "
            f"from sota_dqn.forkserver import begin; function(*begin({theirs.fileno()}))"
        )
        self.process = spawn(source, [theirs.fileno()], environment)
        theirs.close()
        atexit.unregister(self.close)
        atexit.register(self.close)


def spawn(source, files, environment):
    """Starts a process of its own that runs Python source, and returns its `subprocess.Popen`.

    Args:
        source: What it runs, with the paths of this process.
        files: The descriptors that it keeps, by their numbers.
        environment: Environment variables beside those of this process.
    """
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {source}"],
        pass_fds=files,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process
    )


class Child:
    """A forked process as it is seen by who asked for it, with what is used of `subprocess.Popen`.

    Args:
        status: The descriptor from which its number can be read and, once it has ended, its exit code.
    """

    def __init__(self, status):
        self.returncode = None
        self._pid = None
        self._status = open(status, "rb", buffering=0)

    @property
    def pid(self):
        """Its number, for which one waits while the server still imports; None where it has never begun."""
        while self._pid is None and self.returncode is None:
            self._read()
        return self._pid

    def poll(self):
        """Returns the exit code, None while it runs; `"unknown"` where the server has died before it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        """Waits until it has ended and returns the exit code, as `poll` does.

        Raises:
            subprocess.TimeoutExpired: If it has not ended after so many seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            self._read()
        return self.returncode

    def _read(self):
        for word in self._status.read(64).decode().split() or ["code=unknown"]:
            kind, value = word.split("=")
            if kind == "pid":
                self._pid = int(value)
            else:
                self.returncode = int(value) if value != "unknown" else value
                self._status.close()


def begin(control):
    """Forks a process whenever it is asked to, and returns in each of them the numbers of its files.

    Args:
        control: The descriptor of the socket through which a `ForkServer` asks. The server ends with its other end.
    """
    control = socket.socket(fileno=control)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    children: dict[int, int] = {}  # where to tell what becomes of each
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(children)
        if control in ready:
            asked, files, _, _ = socket.recv_fds(control, 1, 64)
            if not asked:
                sys.exit()
            status, *others = files
            child = os.fork()
            if child == 0:
                for number in (woken, waker, *children.values()):
                    os.close(number)
                control.close()
                return _become(status, *others)
            children[child] = status
            for number in others:
                os.close(number)


def _reap(children):
    """Tells the exit codes of those that have ended."""
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        told = children.pop(child)
        with contextlib.suppress(BrokenPipeError):
            os.write(told, f"code={os.waitstatus_to_exitcode(status)} ".encode())
        os.close(told)


def _become(status, told, here, *files):
    """Makes a fork what a process would be that the learner had started; returns the numbers of its files."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    np.random.seed()  # which a fork would share; Python's own is seeded anew by itself
    os.fchdir(here)
    with open(told, encoding="ascii") as file:
        file.seek(0)
        settings = json.load(file)
    standard = settings["standard"]
    for number, file in zip(standard, files, strict=False):
        os.dup2(file, number)
        os.close(file)
    sys.path[:] = settings["path"]
    os.environ.clear()
    os.environ.update(settings["environment"])
    os.write(status, f"pid={os.getpid()} ".encode())
    for number in (status, here):
        os.close(number)
    return files[len(standard) :]


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
