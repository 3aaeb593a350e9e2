"""An actor that acts at random into a replay, beside a log of what the environments said."""

import environments as counting
import keras
import numpy as np
from choices import Chosen
from keras import ops

from sota_dqn import backend, returns, samplers
from sota_dqn.actor import Actor
from sota_dqn.choice import Frames
from sota_dqn.environments import Environments
from sota_dqn.learner import Learner
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.replay import Replay
from sota_dqn.writer import Writer

DISCOUNT = 0.9
NUM_ENVS = 3
DRAWS = 256  # more than there are rows, so that evenly spaced draws meet them all


class Idle(Learner):
    """A learner that only stores."""

    def update(self, uniform, step, number):
        raise NotImplementedError


def make_learner(replay, num_envs=NUM_ENVS, *, shape=(2,), dtype="float32", **settings):
    replay.build(num_envs, observation_shape=shape, observation_dtype=dtype, **settings)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(counting.NUM_ACTIONS)])
    random = np.random.default_rng(0)
    optimizer = keras.optimizers.SGD(0.1)
    return Idle(model, optimizer, replay, target_update=None, batch_size=8, updates_per_call=1, random=random)


class Run:
    """An actor that acts at random into a replay, and the log of what it met.

    Args:
        vector: A vector environment of counting environments.
        capacity: Rows of the replay.
        steps_per_chunk: Steps between two writes.
        discount: For returns to go; None where they are not stored.
        sampler: A sampler; None for a uniform one.
        **settings: Those of `Replay.build`.
    """

    def __init__(
        self,
        vector,
        *,
        capacity,
        steps_per_chunk=2,
        after=3,
        discount=None,
        longest=counting.LONGEST,
        sampler=None,
        **settings,
    ):
        self.environments = Environments(vector, seed=7)
        self.longest = longest
        self.start = int(self.environments.action_space.start)
        preprocess = Preprocessing(None, self.environments.observation_space)
        frames = Frames(settings.get("frame_stack"), settings.get("padding", "reset"))
        self.actor = Actor(self.environments, preprocess, frames=frames, discount=discount)
        self.actor.start()
        num_envs = vector.num_envs
        self.replay = Replay(capacity, sampler=sampler or samplers.Uniform())
        self.learner = make_learner(
            self.replay,
            num_envs,
            after=after,
            chunk=2 * (steps_per_chunk + 1),
            return_to_go=discount is not None,
            **settings,
        )
        random = np.random.default_rng(1)
        choice = Chosen(lambda observations, step: random.integers(counting.NUM_ACTIONS, size=len(observations)))
        self.actor.connect(Writer(self.learner), choice, steps_per_chunk=steps_per_chunk)
        self.identities = [[int(identity)] for identity in self.actor.observation[:, 0]]  # of each stream's episodes
        self.actions = {}  # (identity, step) -> action
        self.ended = []
        self._compiled = {}

    def step(self):
        """Steps once and keeps the log."""
        actions = self.actor.choose(0)
        for (identity, time), action in zip(self.actor.observation.astype(int).tolist(), actions, strict=True):
            self.actions.setdefault((identity, time), int(action) + self.start)  # an ignored action is of a final row
        self.ended += self.actor.step(actions)
        for stream, identity in enumerate(self.actor.observation[:, 0].astype(int).tolist()):
            if identity != self.identities[stream][-1]:
                self.identities[stream].append(identity)

    def rows(self, stream):
        """The log: every row of a stream since the start, as (identity, step), in the order of time."""
        rows = []
        for identity in self.identities[stream]:
            rows += [(identity, step) for step in range(counting.length_of(identity, self.longest) + 1)]
        return rows[: int(self.actor.count[stream])]

    def has_ended(self, identity):
        """Whether the last step of an episode has been made."""
        return (identity, counting.length_of(identity, self.longest) - 1) in self.actions

    def is_final(self, row):
        return row[1] == counting.length_of(row[0], self.longest)

    def sampleable(self):
        """Where every row is stored that may be drawn, and what it is: `{place: (identity, step)}`."""
        expected = {}
        per_stream = self.replay.storage.rows_per_stream
        for stream in range(self.environments.num_envs):
            rows = self.rows(stream)
            for time, row in enumerate(rows):
                complete = time + self.replay.after < len(rows)
                stored = time - self.replay.before >= len(rows) - per_stream
                if complete and stored and not self.is_final(row):
                    expected[stream * per_stream + time % per_stream] = row
        return expected

    def transition(self, row, n):
        """The n-step return, its discount, its length and the observation it bootstraps from."""
        identity, step = row
        length = counting.length_of(identity, self.longest)
        taken = min(n, length - step)
        rewards = [counting.reward_of(identity, s, self.actions[identity, s]) for s in range(step, step + taken)]
        total = sum(DISCOUNT**i * reward for i, reward in enumerate(rewards))
        over = step + taken == length and counting.terminates(identity)
        return total, 0.0 if over else DISCOUNT**taken, taken, (identity, step + taken)

    def draw(self, n):
        """Every row that can be drawn and its n-step transition, as the learner sees them."""

        def sample(uniform, step):
            drawn = self.replay.sample(uniform, step)
            total, discount, length = returns.n_step(drawn.window, n, DISCOUNT)
            first, last = self.replay.observe(drawn.rows), self.replay.observe(drawn.rows, length)
            return drawn.rows, drawn.window.action[:, 0], total, discount, length, first, last

        return self.compute(("draw", n), sample)

    def compute(self, name, sample):
        """Returns `sample(uniform, step)`, whose first output are rows, once for each row that can be drawn.

        It is compiled once under `name`. The rows are compared with the log, and returned as what they are, `[N, 2]`.
        """
        if name not in self._compiled:
            program = backend.Program(self.replay.variables, [], backend.Plan(xla=True, fused=True, threads=False))
            self._compiled[name] = program.compile(sample)
        expected = self.sampleable()
        assert 0 < len(expected) < DRAWS
        outputs = self._compiled[name](np.full(DRAWS, 0.5, "float32"), np.float32(0))
        outputs = [ops.convert_to_numpy(output) for output in outputs]
        places, index = np.unique(outputs[0], return_index=True)
        assert places.tolist() == sorted(expected)
        return [[expected[place] for place in places.tolist()], *(output[index] for output in outputs)]

    def check(self, n):
        """Compares every row that can be drawn with the log; returns the identities met."""
        self.actor.flush()
        if not self.sampleable():
            return set()
        rows, _, actions, totals, discounts, lengths, first, last = self.draw(n)
        transitions = [self.transition(row, n) for row in rows]
        np.testing.assert_array_equal(first, rows)
        np.testing.assert_array_equal(last, [bootstrap for _, _, _, bootstrap in transitions])
        np.testing.assert_array_equal(actions, [self.actions[row] - self.start for row in rows])
        np.testing.assert_array_equal(lengths, [length for _, _, length, _ in transitions])
        np.testing.assert_allclose(discounts, [discount for _, discount, _, _ in transitions], rtol=1e-5)
        np.testing.assert_allclose(totals, [total for total, _, _, _ in transitions], rtol=1e-5, atol=1e-5)
        return {identity for identity, _ in rows}
