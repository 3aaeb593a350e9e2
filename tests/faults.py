"""Faults at a chosen moment: what happens when the n-th access to files below a directory fails or is the last one.

Python's audit hooks see every access before it happens. A hook stays for the life of the process; without a fault under
way it does nothing.
"""

import contextlib
import errno
import os
import signal
import sys

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

_fault = None


class Death(BaseException):
    """Stands for the end of the process: nothing catches it, and no later access to files succeeds."""


class _Fault:
    def __init__(self, directory, number, act, only):
        self.directory = os.fspath(directory)
        self.only = only
        self.number = number
        self.act = act
        self.count = 0

    def hear(self, event, arguments):
        path = arguments[0]
        if self.only not in (None, event) or not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(path)
        # What `shutil.rmtree` removes goes by its name alone.
        if not path.startswith(self.directory) and (os.path.isabs(path) or event not in ("os.remove", "os.rmdir")):
            return
        self.count += 1
        self.act(self.count - self.number)


def _hook(event, arguments):
    if _fault is not None and event in EVENTS:
        _fault.hear(event, arguments)


@contextlib.contextmanager
def _installed(directory, number, act, only=None):
    global _fault
    if not _hook_is_there:
        _hook_is_there.append(sys.addaudithook(_hook))
    _fault = _Fault(directory, number, act, only)
    try:
        yield _fault
    finally:
        _fault = None


_hook_is_there: list = []


def counting(directory):
    """A context that counts the accesses below `directory`, in `.count`."""
    return _installed(directory, 0, lambda after: None)


def dying(directory, number):
    """A context in which the process is dead from access `number` (from 1) on: that one and all later ones raise."""

    def act(after):
        if after >= 0:
            raise Death

    return _installed(directory, number, act)


def failing(directory, number):
    """A context in which access `number` (from 1) finds the disk full."""

    def act(after):
        if after == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return _installed(directory, number, act)


def killed(directory, number, event=None):
    """A context in which access `number` (from 1), or of that event's alone, kills this process before it happens."""

    def act(after):
        if after == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return _installed(directory, number, act, event)
