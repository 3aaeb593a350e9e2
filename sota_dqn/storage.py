"""Where rows live on the device: `[stream, time]`, in the order in which the environments produced them.

Each stream is a ring. Every observation is stored once, at the dtype that preprocessing returns; n-step returns, bounds
and frame stacks are functions of a window of rows. A new kind of per-row value is one more field here.
"""

import numpy as np
from keras import ops

from sota_dqn import backend
from sota_dqn.types import Steps

__all__ = ["Storage", "merge_frames"]


FIELDS = "action", "reward", "terminated", "valid"  # what `Storage.record` holds of a row, in this order


class Storage:
    """Rows of several streams in `keras.Variable`s; the observations in host memory where the device is too small.

    What a row holds beside its observation lies together in `record`, `[N, 4]` float32, so that a window of rows is one
    or two lines of the processor's cache. Actions are exact up to 2^24 there.

    Row `t` of stream `e` is stored at `e * rows_per_stream + t % rows_per_stream`. One more place behind the last takes
    whatever pads a chunk to its fixed size; nothing reads it.

    Args:
        num_streams: Streams, one per environment.
        rows_per_stream: Rows that a stream holds before the oldest is overwritten.
        observation_shape: `*O`, one stored observation (a single frame).
        observation_dtype: Its dtype.
        frame_stack: Frames that make one observation of the model, or None for the stored observation as it is.
        padding: What stands before an episode's first frame in a stack: `"reset"` repeats that frame, `"zero"` is
            zeros.
        return_to_go: Whether the returns of terminated episodes are stored too.
        host: Whether the observations are kept in host memory.
        state: The shape and dtype of each state of a recurrent model.
        period: Only rows whose time is a multiple of it store the state before them. `rows_per_stream` is one too.
    """

    def __init__(
        self,
        num_streams,
        rows_per_stream,
        *,
        observation_shape,
        observation_dtype,
        frame_stack=None,
        padding="reset",
        return_to_go=False,
        host=False,
        state=(),
        period=1,
    ):
        self.period = period
        self.num_streams = num_streams
        self.rows_per_stream = rows_per_stream
        self.frame_stack = frame_stack
        self.padding = padding
        self.bin = num_streams * rows_per_stream

        def field(name, dtype, shape=(), **where):
            return backend.make_rows((self.bin + 1, *shape), dtype, f"replay_{name}", **where)

        self.observation = field("observation", observation_dtype, observation_shape, host=host)
        self.record = field("record", "float32", (len(FIELDS),))
        self.return_to_go = field("return_to_go", "float32") if return_to_go else None
        self.state = [
            backend.make_rows((self.bin // period + 1, *shape), dtype, f"replay_state_{i}")
            for i, (shape, dtype) in enumerate(state)
        ]
        self.count = backend.make_rows((num_streams,), "int32", "replay_count")  # rows written so far, not wrapped

    @property
    def variables(self):
        """All variables, observations first."""
        fields = [self.observation, self.record, self.count, *self.state]
        return fields if self.return_to_go is None else [*fields, self.return_to_go]

    def places(self, streams, times):
        """Returns where row `times` of each of `streams` is stored, on the host; a negative time is the bin.

        `[M]` int32.
        """
        places = streams * self.rows_per_stream + times % self.rows_per_stream
        return np.where(times < 0, self.bin, places).astype("int32")

    def write(self, rows, steps, count):
        """Writes `steps` (`[M, ...]`) to `rows` (`[M]`) and sets the streams' `count` (`[E]`)."""
        backend.write_rows(self.observation, rows, ops.cast(steps.observation, self.observation.dtype))
        record = [ops.cast(getattr(steps, name), "float32") for name in FIELDS]
        backend.write_rows(self.record, rows, ops.stack(record, axis=-1))
        if self.return_to_go is not None:
            backend.write_rows(self.return_to_go, rows, ops.full(ops.shape(rows), -float("inf"), "float32"))
        self.count.assign(count)

    def starts(self, rows):
        """Returns which of `rows` (`[M]`) store a state: `[M]` bool. The bin does."""
        return rows % self.period == 0

    def write_states(self, rows, states):
        """Writes the states before `rows` (`[M]`), a list of `[M, units]`, where they are stored."""
        places = ops.where(self.starts(rows), rows // self.period, self.bin // self.period)
        for variable, values in zip(self.state, states, strict=True):
            backend.write_rows(variable, places, ops.cast(values, variable.dtype))

    def read_states(self, rows):
        """Returns the states before `rows` (`[B]`), which store them: a list of `[B, units]`."""
        return [backend.read_rows(variable, rows // self.period) for variable in self.state]

    def shift(self, rows, distance):
        """Returns the place of the row `distance` later, or earlier where negative, in the same stream.

        The distance is less than a stream holds. The bin stays itself.
        """
        first = rows // self.rows_per_stream * self.rows_per_stream  # of the stream
        place = rows + distance
        place = ops.where(place >= first + self.rows_per_stream, place - self.rows_per_stream, place)
        place = ops.where(place < first, place + self.rows_per_stream, place)
        return ops.minimum(place, self.bin)

    def reaches(self, rows, distance):
        """Returns whether the stream of each of `rows` (`[M]`) had a row `distance` before it: `[M]` bool."""
        stream = ops.minimum(rows // self.rows_per_stream, self.num_streams - 1)  # of the bin any
        full = backend.read_rows(self.count, stream) > self.rows_per_stream
        return ops.logical_or(full, rows % self.rows_per_stream >= distance)

    def neighbours(self, rows, first, last):
        """Returns the places of the rows from `first` to `last` around each of `rows`: `[B, last - first + 1]`."""
        return self.shift(ops.expand_dims(rows, -1), ops.arange(first, last + 1, dtype="int32"))

    def read(self, rows):
        """Returns `Steps` at `rows` (`[...]`), without the observations: those are large, and `observe` reads them."""
        action, reward, terminated, valid = ops.unstack(backend.read_rows(self.record, rows), axis=-1)
        return Steps(None, ops.cast(action, "int32"), reward, terminated, valid)

    def cut(self, rows):
        """Makes `rows` (`[S]` int32) the last of their episodes, without an outcome."""
        column = ops.full_like(rows, FIELDS.index("valid"))
        backend.write_rows(self.record, ops.stack([rows, column], axis=-1), ops.zeros(ops.shape(rows), "float32"))

    def connected(self, rows, length, *, through_terminations=False):
        """Returns which of the `length` rows before each of `rows` belong to the same episode and are still stored.

        Args:
            rows: `[B]` places.
            length: How many rows to look back.
            through_terminations: Whether a `terminated` row connects to a valid one after it, as a lost life does to
                the game that goes on. Frame stacks run through it, returns and bounds stop there.

        Returns:
            `[B, length]` float32, oldest first: 1 where that row and all between it and the given one belong together.
        """
        past = self.neighbours(rows, -length, -1)
        steps = self.read(past)
        same = steps.valid if through_terminations else steps.valid * (1.0 - steps.terminated)
        count = ops.expand_dims(backend.read_rows(self.count, rows // self.rows_per_stream), -1)
        age = (count - 1 - ops.expand_dims(rows, -1)) % self.rows_per_stream  # 0 for the newest row of the stream
        stored = age + ops.arange(length, 0, -1, dtype="int32") < ops.minimum(count, self.rows_per_stream)
        same = same * ops.cast(stored, "float32")
        return ops.flip(ops.cumprod(ops.flip(same, axis=-1), axis=-1), axis=-1)

    def previous(self, rows):
        """Returns the actions and rewards before `rows` (`[B]`), and where there are none: three of `[B]`, the last
        bool, where a row is an episode's first."""
        begun = self.connected(rows, 1, through_terminations=True)[:, 0] == 0
        before = self.read(self.shift(rows, -1))
        return before.action, before.reward, begun

    def observe(self, rows):
        """Returns the observations at `rows` (`[B]`) as the model sees them, frame stacks included: `[B, *O]`."""
        if self.frame_stack is None:
            return backend.read_rows(self.observation, rows)
        length = self.frame_stack - 1
        connected = self.connected(rows, length, through_terminations=True)
        back = ops.cast(ops.sum(connected, axis=-1, keepdims=True), "int32")
        offsets = ops.maximum(ops.arange(-length, 1, dtype="int32"), -back)  # [B, k], the first frame instead of none
        frames = backend.read_rows(self.observation, self.shift(ops.expand_dims(rows, -1), offsets))
        if self.padding == "zero":
            seen = ops.concatenate([connected, ops.ones_like(connected[:, :1])], axis=-1)
            seen = ops.reshape(seen, (-1, self.frame_stack) + (1,) * (len(frames.shape) - 2))
            frames = frames * ops.cast(seen, frames.dtype)
        return merge_frames(frames)


def merge_frames(frames):
    """Returns stacks of frames as the model sees them: channels last, oldest first.

    Args:
        frames: `[B, k, *O]`.

    Returns:
        `[B, H, W, k]` for frames `[H, W]`, `[B, H, W, k * C]` for `[H, W, C]`, else `[B, *O, k]`.
    """
    rank = len(frames.shape) - 2
    if rank == 3:
        merged = ops.moveaxis(frames, 1, 3)  # [B, H, W, k, C]
        return ops.reshape(merged, (-1, *merged.shape[1:3], merged.shape[3] * merged.shape[4]))
    return ops.moveaxis(frames, 1, -1)
