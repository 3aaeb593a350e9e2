"""Files that are complete at any moment: whoever reads one while it is rewritten sees the old one or the new one."""

import contextlib
import errno
import os
import pathlib

__all__ = ["check_writable", "replacing"]


@contextlib.contextmanager
def replacing(path):
    """Yields a path beside `path` to write to, which takes the place of `path` once the block has ended.

    It has the suffix of `path`, by which writers choose a format. A missing directory is made. Where the block raises,
    `path` stays as it was and what had been written is removed.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path):
    """Makes the directory of the file `path`, and raises OSError unless the file can be written."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path} cannot be written: it is a directory")
    probe = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}") from error
