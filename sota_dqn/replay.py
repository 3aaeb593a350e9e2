"""The replay: storage, a sampler, and the windows of rows that learning reads. All of it lives on the device, but for
observations that are too large for it."""

import math
from typing import Any

import numpy as np
from keras import ops

from sota_dqn import backend
from sota_dqn.checks import check_count
from sota_dqn.samplers import Uniform
from sota_dqn.storage import Storage
from sota_dqn.types import Sample, recorded

__all__ = ["Replay"]

METHODS = "build", "retire", "admit", "sample", "update"  # of a sampler


@recorded
class Replay:
    """Settings of a replay, and after `build` the replay itself.

    Args:
        capacity: Stored rows, over all streams: one per environment step, and one per episode for its final
            observation. A multiple of the number of streams: up to one row per stream is left unused.
        sampler: How rows are drawn: `samplers.Uniform()`, as by default, or `samplers.Prioritized(...)`.
        device: None keeps everything where the model is trained; `"cpu"` keeps the observations in host memory, for an
            accelerator that is too small for them. What is learned is the same, more slowly. Without an accelerator the
            two are one.
    """

    def __init__(self, capacity=100_000, *, sampler=None, device=None):
        check_count(1, capacity=capacity)
        if device not in (None, "cpu"):
            raise ValueError(f'Argument `device` must be None or "cpu". Received: device={device!r}')
        missing = [] if sampler is None else [name for name in METHODS if not callable(getattr(sampler, name, None))]
        if missing or isinstance(sampler, type):
            raise TypeError(
                f"Argument `sampler` must be a sampler such as samplers.Prioritized(). Received: sampler={sampler!r}"
            )
        self.capacity = int(capacity)
        self.device = device
        self.sampler = Uniform() if sampler is None else sampler
        self.storage: Any = None  # a `Storage`, after `build`

    def check_unused(self, batch_size):
        """Raises ValueError where these settings have been built already, or cannot hold a batch."""
        if self.storage is not None:
            raise ValueError("Argument `replay` already belongs to another trainer: make one for each.")
        if self.capacity < batch_size:
            raise ValueError(
                f"Argument `capacity` must be at least the batch size, {batch_size}. Received: {self.capacity}"
            )

    def build(
        self,
        num_streams,
        *,
        observation_shape,
        observation_dtype,
        after,
        before=0,
        chunk=0,
        frame_stack=None,
        padding="reset",
        return_to_go=False,
        state=(),
        period=1,
    ):
        """Allocates the rows.

        Args:
            num_streams: Streams, one per environment.
            observation_shape: `*O` of one stored observation.
            observation_dtype: Its dtype.
            after: Rows after a drawn one that its window reads.
            before: Rows before a drawn one that must not be overwritten yet, beyond a frame stack's.
            chunk: Rows that one stream may write between two draws.
            frame_stack: Frames in one observation of the model, or None.
            padding: What stands before an episode's first frame, `"reset"` or `"zero"`.
            return_to_go: Whether returns of terminated episodes are stored.
            state: The shape and dtype of each state of a recurrent model, stored before a row.
            period: Only rows whose time is a multiple of it store states, and are drawn.

        Raises:
            ValueError: If a window does not fit into a stream.
            MemoryError: If the device, or the host, has too little memory; it says how much is needed and what would
                fit.
        """
        rows_per_stream = self.capacity // num_streams // period * period
        self.period = period
        self.after = after
        self.before = before + (frame_stack - 1 if frame_stack else 0)
        least = -(-(chunk + self.after + self.before + period) // period) * period
        if rows_per_stream < least:
            raise ValueError(
                f"Argument `capacity` must be at least {least * num_streams} for {num_streams} environments: windows "
                f"of {self.after + self.before + 1} rows and {chunk} rows written at a time. "
                f"Received: capacity={self.capacity}"
            )
        states = sum(math.prod(shape) * _itemsize(dtype) for shape, dtype in state) / period
        needed = self._check_memory(
            num_streams, rows_per_stream, observation_shape, observation_dtype, 4 * return_to_go + states
        )

        def allocate(rows_per_stream):
            self.storage = Storage(
                num_streams,
                rows_per_stream,
                observation_shape=observation_shape,
                observation_dtype=observation_dtype,
                frame_stack=frame_stack,
                padding=padding,
                return_to_go=return_to_go,
                host=self.on_host,
                state=state,
                period=period,
            )
            self.sampler.build(self.storage.bin + 1)

        try:
            allocate(rows_per_stream)
            return
        except backend.AllocationError as error:  # where the device does not tell what it has left
            cause = error.with_traceback(None)  # which holds what has been allocated
        while (rows_per_stream := rows_per_stream // 2 // period * period) >= least:
            self.release()
            try:
                allocate(rows_per_stream)
                break
            except backend.AllocationError:
                continue
        self.release()
        fits = f"{rows_per_stream * num_streams:,} rows would fit. " if rows_per_stream >= least else ""
        raise MemoryError(
            f"A replay of {self.capacity:,} rows needs {needed / 1e9:.2f} GB, more than the device has left. "
            f"{fits}{self._advice()}Received: capacity={self.capacity}"
        ) from cause

    def release(self):
        """Lets go of the rows: these settings may be built again."""
        self.storage = None

    @property
    def on_host(self):
        """Whether observations are in host memory while the model is trained elsewhere."""
        return self.device == "cpu" and backend.device_kind() != "cpu"

    @property
    def variables(self):
        """All variables of the storage and the sampler."""
        return [*self.storage.variables, *self.sampler.variables]

    def add(self, rows, steps, count, states=(), td_error=()):
        """Writes rows in the order of their streams, and lets those be drawn whose windows are now complete.

        Args:
            rows: `[M]` int32, places as given by `storage.places`; padding points to the bin.
            steps: `Steps`, `[M, ...]`.
            count: `[E]` int32, rows written to each stream so far, these included.
            states: Those of a recurrent model before the rows, `[M, units]` each, where they are stored.
            td_error: `[M]`, those of the rows whose windows are now complete, for their first priorities, NaN where
                unknown; or nothing.
        """
        self.storage.write(rows, steps, count)
        self.storage.write_states(rows, states)
        self.sampler.retire(self.storage.shift(rows, self.before))
        complete = self.storage.shift(rows, -self.after)
        drawn = ops.cast(ops.logical_and(complete != self.storage.bin, self.storage.starts(complete)), "float32")
        # A sequence may begin at a final observation, which counts for nothing: where episodes are as long as the
        # period, there might be no other beginning.
        if self.period > 1:
            valid = drawn * ops.cast(self.storage.reaches(rows, self.after), "float32")
        else:
            valid = drawn * self.storage.read(complete).valid
        self.sampler.admit(complete, valid, None if isinstance(td_error, tuple) else td_error)

    def withdraw(self, count, *, after, before):
        """Keeps rows from being drawn whose windows are not complete, where those that let them in were shorter.

        Args:
            count: `[E]`, rows that each stream has produced.
            after: Rows after a drawn one that its window read when the rows were written.
            before: Rows before a drawn one, likewise.
        """
        places = []
        for stream, number in enumerate(count):
            overwritten = number - self.storage.rows_per_stream
            for begin, end in (
                (number - self.after, number - after),
                (overwritten + before, overwritten + self.before),
            ):
                places.append(self.storage.places(stream, np.arange(max(begin, 0), end)))
        rows = np.concatenate(places)
        if len(rows):
            self.sampler.retire(ops.convert_to_tensor(rows))

    def cut(self, rows):
        """Ends the episodes whose newest rows are `rows` (`[S]` int32) there, whatever is written after them."""
        self.storage.cut(rows)

    def set_returns(self, rows, returns):
        """Stores the returns to go (`[M]` float32) of the rows of an episode that terminated (`[M]` int32)."""
        backend.write_rows(self.storage.return_to_go, rows, returns)

    def sample(self, uniform, step, *, past=0):
        """Draws a batch of windows.

        Args:
            uniform: `[B]` random numbers in [0, 1).
            step: `[]` float32, environment steps so far, for the sampler's schedules.
            past: Rows before each drawn one to read too.

        Returns:
            A `Sample`. Its `Steps` hold no observations: `observe` reads those that are needed.
        """
        rows, weights = self.sampler.sample(uniform, step)
        return_to_go = self.storage.return_to_go
        return Sample(
            rows=rows,
            weights=weights,
            window=self.storage.read(self.storage.neighbours(rows, 0, self.after)),
            past=self.storage.read(self.storage.neighbours(rows, -past, -1)) if past else None,
            connected=self.storage.connected(rows, past) if past else None,
            return_to_go=None if return_to_go is None else backend.read_rows(return_to_go, rows),
        )

    def observe(self, rows, distance=0):
        """Returns the observations `distance` rows after `rows` (`[B]`): `[B, *O]`.

        A frame stack's frames are merged.
        """
        return self.storage.observe(self.storage.shift(rows, distance))

    def update(self, rows, td_error):
        """Hands the TD errors (`[B]`) of drawn `rows` (`[B]`) to the sampler."""
        self.sampler.update(rows, td_error)

    def _check_memory(self, num_streams, rows_per_stream, shape, dtype, more):
        """Returns the bytes of the rows, and raises MemoryError where the device says that it cannot hold them."""
        row = math.prod(shape) * _itemsize(dtype) + 16 + more + 5  # its record, and its share of the sum tree
        needed = row * num_streams * rows_per_stream
        available = backend.memory_available(host=self.on_host)
        if available is not None and needed > available:
            raise MemoryError(
                f"A replay of {self.capacity:,} rows needs {needed / 1e9:.2f} GB and the "
                f"{'host' if self.on_host else 'device'} has {available / 1e9:.2f} GB left. "
                f"About {int(0.9 * available / row):,} rows would fit. {self._advice()}"
                f"Received: capacity={self.capacity}"
            )
        return needed

    def _advice(self):
        """Returns the other place for observations, where there is one."""
        elsewhere = self.device is None and backend.device_kind() != "cpu"
        return "Or keep the observations in host memory: Replay(..., device='cpu'). " if elsewhere else ""


def _itemsize(dtype):
    """Returns the bytes of one number."""
    return {"bool": 1, "bfloat16": 2}.get(dtype) or int("".join(c for c in dtype if c.isdigit())) // 8
