"""The way of rows from an actor into the replay of a learner."""

import numpy as np

__all__ = ["Writer"]

LARGEST_COUNT = 2**30  # of a stream's rows, on the device, where they are counted in 32 bits
RETURNS_BLOCK = 1024  # returns to go are written in pieces of one size, so that they compile once


class Writer:
    """Writes what an actor has collected.

    Args:
        learner: A `Learner`.
    """

    def __init__(self, learner):
        self.learner = learner
        self.storage = learner.replay.storage

    @property
    def state_shapes(self):
        """The shapes `[units]` of a recurrent model's states that are stored with a row; none where none are."""
        return [tuple(variable.shape[1:]) for variable in self.storage.state]

    def write(self, streams, times, steps, count, states=(), td_error=()):
        """Writes rows. The device may read the arrays after this returns.

        Args:
            streams: `[M]` int64.
            times: `[M]` int64, the rows' numbers in their streams; -1 for what pads the chunk.
            steps: `Steps`, `[M, ...]`.
            count: `[E]` int64, rows that each stream has produced, these included.
            states: Those of a recurrent model before the rows, `[M, units]` each, where they are stored.
            td_error: `[M]` float32, for first priorities: that of the rows whose windows these complete, NaN where it
                is not known; or nothing.
        """
        size = self.storage.rows_per_stream
        # Of a stream that has long been full only the place of its newest row counts.
        count = np.where(count < LARGEST_COUNT, count, LARGEST_COUNT // size * size + count % size).astype("int32")
        self.learner.add(self.storage.places(streams, times), steps, count, list(states), td_error)

    def write_returns(self, stream, times, returns, count):
        """Stores the returns to go of a stream's rows, but for those that later ones have overwritten meanwhile.

        Args:
            stream: Which.
            times: `[M]` int64.
            returns: `[M]`.
            count: Rows that the stream has produced.
        """
        stored = times >= max(count - self.storage.rows_per_stream, 0)
        places = self.storage.places(np.full(stored.sum(), stream), times[stored])
        for begin in range(0, len(places), RETURNS_BLOCK):
            piece = slice(begin, begin + RETURNS_BLOCK)
            size = len(places[piece])
            block = np.full(RETURNS_BLOCK, self.storage.bin, "int32"), np.zeros(RETURNS_BLOCK, "float32")
            block[0][:size], block[1][:size] = places[piece], returns[stored][piece]
            self.learner.set_returns(*block)

    def cut(self, streams, count):
        """Ends the episodes of `streams` (`[S]`) with the rows written last, whatever comes after them.

        Args:
            streams: Which, an array of integers.
            count: `[E]`, rows that each stream has produced.
        """
        places = np.full(len(count), self.storage.bin, "int32")
        written = streams[count[streams] > 0]
        places[: len(written)] = self.storage.places(written, count[written] - 1)
        self.learner.cut(places)
