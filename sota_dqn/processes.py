"""Actor processes on this machine: chunks of rows in shared memory, notices of them through a socket each.

The memory has no name, and so does not outlive the processes that hold it. An actor owns two slots of it, fills the one
that it is told to, and says so; a chunk that was not announced is never read. Weights have a place of their own for
each actor, written only while the actor is known not to read it. Whichever side dies, the other's socket ends. No lock
is held by anyone.
"""

import contextlib
import itertools
import mmap
import multiprocessing.connection
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from sota_dqn import backend, forkserver
from sota_dqn.remote_actor import RemoteActor
from sota_dqn.types import Steps

__all__ = ["SLOTS", "Died", "Processes", "actor_environment", "chunk_layout", "pack", "run"]

SLOTS = 2  # chunks of one actor that wait or are being filled
PATIENCE = 5.0  # seconds that an actor has to end by itself
ALIGNMENT = 64  # bytes

_server = forkserver.ForkServer("sota_dqn.processes", "run")  # for all actors that this process ever starts


class Died(NamedTuple):
    """What is left of an actor."""

    reason: str  # its traceback, or its exit code


def chunk_layout(observation, stored_states, size, *, errors):
    """Returns the shape and dtype of every array of a chunk's rows.

    Args:
        observation: The shape and dtype of one stored observation.
        stored_states: The shapes of a recurrent model's states.
        size: M, rows of a chunk.
        errors: Whether rows come with the errors of first priorities.
    """
    shape, dtype = observation
    steps = [((size, *shape), dtype), *(((size,), dtype) for dtype in ("int32", "float32", "uint8", "uint8"))]
    states = [((size, *shape), "float32") for shape in stored_states]
    return [((size,), "int64"), ((size,), "int64"), *steps, *states, *([((size,), "float32")] if errors else [])]


class Processes:
    """Actor processes and the memory that they share with this one.

    Args:
        number: N.
        layout: The arrays of a chunk, from `chunk_layout`.
        weights: The shape and dtype of every array of weights.
    """

    slots = SLOTS
    starts_at_once = True  # an actor that has been started will deliver, or die

    def __init__(self, number, layout, weights):
        self.layouts = (layout, weights)
        self._actors: list[_Actor | None] = [None] * number
        self._memory = [_Memory(_size(layout) * SLOTS + _size(weights)) for _ in range(number)]

    @property
    def processes(self):
        """The numbers of the processes."""
        return [actor.process.pid for actor in self._actors if actor is not None]

    def start(self, actor, specification):
        """Starts an actor, which has ended if there was one."""
        self._end(actor)
        self._actors[actor] = _Actor(specification, self._memory[actor], self.layouts)

    def collect(self, actor, steps, others):
        """Asks an actor for a chunk; at most for `slots` at a time.

        Args:
            actor: Its number.
            steps: Of all its environments.
            others: Environment steps made by others so far.
        """
        self._actors[actor].collect(steps, others)

    def wants_weights(self):
        """Returns whether an actor has taken over the last weights that it was offered."""
        return any(actor is not None and not actor.loading for actor in self._actors)

    def publish(self, weights, updates):
        """Offers weights to all actors; one that is still busy with the last ones gets the next."""
        for actor in self._actors:
            if actor is not None and not actor.loading:
                actor.load(weights, updates)

    def poll(self, timeout):
        """Returns the chunks that have arrived, and who has died, as (actor, `Chunk` or `Died`).

        Args:
            timeout: Seconds to wait where nothing has.
        """
        numbers = {actor.connection: number for number, actor in enumerate(self._actors) if actor is not None}
        ready: Any = multiprocessing.connection.wait(list(numbers), timeout)
        found = [(numbers[connection], message) for connection in ready for message in self._read(numbers[connection])]
        for number, actor in enumerate(self._actors):
            if actor is not None and actor.process.poll() is not None:
                found += [(number, message) for message in self._read(number)]
                if self._actors[number] is not None:  # a process that it has started holds its socket
                    found.append((number, Died(f"Its exit code was {self._end(number)}.")))
        return found

    def close(self):
        """Ends all actors and frees the memory."""
        for actor in self._actors:
            if actor is not None:
                actor.stop()
        until = time.monotonic() + PATIENCE
        for number in range(len(self._actors)):
            self._end(number, patience=max(0.0, until - time.monotonic()))
        for memory in self._memory:
            memory.close()

    def _read(self, number):
        """Yields what an actor has sent."""
        actor = self._actors[number]
        try:
            while actor.connection.poll():
                message = actor.receive()
                if message is not None:
                    yield message
        except (EOFError, OSError):
            code = self._end(number)
            yield Died(actor.last_words or f"Its exit code was {code}.")

    def _end(self, number, *, patience=PATIENCE):
        """Sees to it that an actor has ended within so many seconds, and returns its exit code."""
        actor, self._actors[number] = self._actors[number], None
        return None if actor is None else actor.end(patience)


class _Memory:
    """Anonymous memory that a child process can be given."""

    def __init__(self, size):
        if hasattr(os, "memfd_create"):
            self.file = os.memfd_create("sota_dqn")
        else:
            with tempfile.TemporaryFile() as file:  # its name is gone already
                self.file = os.dup(file.fileno())
        os.ftruncate(self.file, max(size, 1))
        self.buffer = mmap.mmap(self.file, 0)
        self.close = weakref.finalize(self, os.close, self.file)


class _Actor:
    """One actor process, seen from the learner's."""

    def __init__(self, specification, memory, layouts):
        self.slots, self.weights = _map(memory.buffer, *layouts)
        self.free = list(range(SLOTS))
        self.loading = False
        self.last_words = None
        pickled = pack((specification, *layouts))
        given = _Memory(len(pickled))
        given.buffer[: len(pickled)] = pickled
        self.connection, theirs = multiprocessing.connection.Pipe()
        files = (theirs.fileno(), memory.file, given.file)
        self.process = _start(files)
        theirs.close()
        given.close()

    def collect(self, steps, others):
        self._send("collect", self.free.pop(0), steps, others)

    def load(self, weights, updates):
        for place, values in zip(self.weights, weights, strict=True):
            place[...] = values
        self.loading = True
        self._send("load", updates)

    def stop(self):
        self._send("stop")

    def receive(self):
        """Returns the `Chunk` that has been announced, or None for other news."""
        kind, *values = self.connection.recv()
        if kind == "chunk":
            slot, chunk = values
            self.free.append(slot)
            streams, times, *rows = (array.copy() for array in self.slots[slot])
            steps, states = Steps(*rows[:5]), rows[5:]
            errors = () if chunk.td_error is None else states.pop()
            return chunk._replace(streams=streams, times=times, steps=steps, states=states, td_error=errors)
        if kind == "loaded":
            self.loading = False
        else:
            self.last_words = values[0]
            raise EOFError  # whether or not its process manages to end
        return None

    def end(self, patience):
        """Ends the process and all that it has started, the hard way where it does not end by itself in so many
        seconds, and returns its exit code."""
        if self.last_words is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        self.connection.close()
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def _send(self, *message):
        with contextlib.suppress(ConnectionError):  # it has died: `poll` will tell
            self.connection.send(message)


def _start(files):
    """Starts a process that calls `run` with the numbers of its copies of `files`: a fork where that is possible."""
    if forkserver.AVAILABLE:
        return _server.fork(files, actor_environment())
    return forkserver.spawn(f"from sota_dqn.processes import run; run{files}", files, actor_environment())


def pack(value):
    """Returns the bytes of what an actor is made from, functions and classes of the user's script included.

    Raises:
        TypeError: If that is not possible.
    """
    try:
        return cloudpickle.dumps(value)
    except Exception as error:  # whatever the user's objects raise
        raise TypeError(
            "Actor processes get copies of the environment's callable, the preprocessing, the policy and the model's "
            f"own layers, and one of them cannot be copied: {error}"
        ) from error


def run(connection, memory, given):
    """Runs an actor in this process until it is told to stop or the learner is gone; the arguments are descriptors."""
    connection = multiprocessing.connection.Connection(connection)
    with os.fdopen(given, "rb") as file:
        file.seek(0)
        pickled = file.read()
    inbox: queue.PriorityQueue = queue.PriorityQueue()  # weights come before chunks that are to be made with them
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(connection, inbox, stopping), daemon=True).start()
    try:
        specification, *layouts = cloudpickle.loads(pickled)
        slots, weights = _map(mmap.mmap(memory, 0), *layouts)
        _serve(RemoteActor(specification), connection, inbox, stopping, slots, weights)
    except Exception:
        connection.send(("died", traceback.format_exc()))
        sys.exit(1)


def _serve(actor, connection, inbox, stopping, slots, weights):
    """Does what the learner asks for until it is enough."""
    since = time.perf_counter()
    while True:
        *_, (kind, *values) = inbox.get()
        if stopping.is_set():
            actor.close()
            return
        if kind == "load":
            begun = time.perf_counter()
            actor.load([place.copy() for place in weights], *values)
            connection.send(("loaded",))
            since += time.perf_counter() - begun  # which is not waiting
            continue
        waited = time.perf_counter() - since
        slot, *asked = values
        chunk = actor.collect(*asked, stopping=stopping.is_set)
        errors = [] if isinstance(chunk.td_error, tuple) else [chunk.td_error]
        rows = [chunk.streams, chunk.times, *chunk.steps, *chunk.states, *errors]
        for place, array in zip(slots[slot], rows, strict=True):
            place[...] = array
        bare = chunk._replace(streams=None, times=None, steps=None, states=None, waited=waited)
        connection.send(("chunk", slot, bare._replace(td_error=True if errors else None)))
        since = time.perf_counter()


def _listen(connection, inbox, stopping):
    """Passes on what the learner says. Where it is gone, so is this process, whatever it is doing, and all that it has
    started."""
    try:
        for number in itertools.count():
            message = connection.recv()
            if message[0] == "stop":
                stopping.set()
            inbox.put((message[0] == "collect", number, message))
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def actor_environment():
    """Returns the environment variables of an actor: it computes on the CPU, with few threads."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    cpu = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    threads = {"NPROC": "1", "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    return {"KERAS_BACKEND": backend.BACKEND, **cpu, **threads, **quiet}


def _size(layout):
    """Returns the bytes of some arrays, each of them aligned."""
    return sum(_bytes(shape, dtype) for shape, dtype in layout)


def _bytes(shape, dtype):
    size = int(np.prod(shape, dtype="int64")) * np.dtype(dtype).itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT


def _map(buffer, layout, weights):
    """Returns the arrays of every slot, and those of the weights, in shared memory."""
    place = 0
    groups = []
    for group in [*[layout] * SLOTS, weights]:
        arrays = []
        for shape, dtype in group:
            count = int(np.prod(shape, dtype="int64"))
            arrays.append(np.frombuffer(buffer, dtype, count, place).reshape(shape))
            place += _bytes(shape, dtype)
        groups.append(arrays)
    return groups[:SLOTS], groups[-1]
