"""Asynchronous workers: threads that step environments of their own and learn with shared weights.

Threads, not processes: the emulator, the forward pass and the gradient release the interpreter's lock, and they are
where the time of a game goes. On Breakout, on a machine with two cores, two threads made 1.05 (TensorFlow) and 0.91
(JAX) of the steps of two processes that share nothing at the same time, and 2.0 and 1.7 times those of one
(`benchmarks/one_step.py`, a machine whose speed varies); that is with `backend.single_threaded`, without which threads
wait in line for a pool that they share. Processes would pay for the difference with a second copy of the libraries and
of the compiled programs, with ways for weights and gradients between them, and with environments that have to be
pickled. Environments that are written in Python, such as classic control, take turns at the interpreter: there more
workers explore more widely, and are no faster.
"""

from typing import Any, NamedTuple

import numpy as np

from sota_dqn.actor import Episode
from sota_dqn.checks import check_distinct, flaw_of
from sota_dqn.choice import Frames
from sota_dqn.environments import Environments, in_float32
from sota_dqn.preprocessing import Preprocessing
from sota_dqn.schedules import linear
from sota_dqn.seeds import episode_seeds
from sota_dqn.vectors import closing_on_error, envs_of, make_vector

__all__ = ["Segment", "Worker", "make_workers"]


class Segment(NamedTuple):
    """Up to N steps in a row, with the state that they led to.

    Rows beyond are masked; they repeat the last observation, which layers such as `BatchNormalization` then see again.
    """

    observation: Any  # [N + 1, ...], what the model sees
    action: Any  # [N + 1] int32: those taken, then, for SARSA, the one that is taken next
    returns: Any  # [N] float32, the sum of discounted rewards before the bootstrap
    discount: Any  # [N] float32, of the bootstrap: 0 after a termination
    bootstrap: Any  # [N] int32, the row in which a step bootstraps
    mask: Any  # [N] float32, 1 for a step


class Worker:
    """Steps one environment, and has a learner compute the gradient of every few steps.

    Args:
        number: Counts the workers from 0.
        environments: An `Environments` of one stream.
        preprocess: A `Preprocessing`.
        frame_stack: k, or None.
        clip_rewards: Whether rewards are learned clipped to [-1, 1].
        looks_ahead: Whether the action to take next is chosen before the target is made, as SARSA needs it.
        max_steps: N, the most steps of a segment; an episode's end cuts it short.
        n_step: Steps of reward before the bootstrap, as far as the segment reaches.
        discount: gamma, per environment step.
        epsilon: A schedule of the probability of a random action.
        random: The `numpy.random.Generator` that explores.
    """

    def __init__(
        self,
        number,
        environments,
        preprocess,
        *,
        frame_stack,
        clip_rewards,
        looks_ahead,
        max_steps,
        n_step,
        discount,
        epsilon,
        random,
    ):
        self.number = number
        self.environments = environments
        self.preprocess = preprocess
        self.frames = Frames(frame_stack, "reset")
        self.clip_rewards = clip_rewards
        self.looks_ahead = looks_ahead
        self.n_step = n_step
        self.discount = discount
        self.epsilon = epsilon
        self.random = random
        self.observation = self.preprocess(environments.reset())  # [1, *O], as the environment's state is
        self.seen = self.frames(self.observation, np.ones(1, bool))  # [1, ...], as the model sees it
        self.action: int | None = None  # to take next, where it is chosen already
        self.observations = np.zeros((max_steps + 1, *self.seen.shape[1:]), self.seen.dtype)
        self.actions = np.zeros(max_steps + 1, "int32")
        self.rewards = np.zeros(max_steps)
        self.length = 0  # of the segment so far
        self.episode_return, self.episode_length = 0.0, 0
        self.torn = False  # whether an error has cut a step short
        self._check("observation", self.observation)

    def run(self, learner, shared, clock):
        """Steps and learns until `shared` says that it is enough.

        Args:
            learner: An object with `greedy(weights, observations)` and `learn(segment)`.
            shared: A `Shared`.
            clock: A `Clock`.
        """
        self.torn = True
        while (step := shared.begin()) is not None:
            self.step(learner, shared, clock, step)
        self.torn = False

    def step(self, learner, shared, clock, step):
        """Makes one environment step, number `step` of all workers, and learns where a segment ends."""
        if self.action is None:
            with clock("act"):
                self.action = self._choose(learner, shared, step)
        self.observations[self.length], self.actions[self.length] = self.seen[0], self.action
        with clock("environment"):
            outcome = self.environments.step(np.array([self.action]))
        reward, terminated, over = float(outcome.reward[0]), bool(outcome.terminated[0]), bool(outcome.ended[0])
        learned = np.clip(outcome.reward, -1.0, 1.0) if self.clip_rewards else outcome.reward
        self.rewards[self.length] = learned[0]
        self.length += 1
        self.episode_return += reward
        self.episode_length += 1
        self._check("reward", in_float32(outcome.reward, learned), over)
        self.observation = self.preprocess(outcome.final_observation if over else outcome.observation)
        self._check("observation", self.observation, over)
        self.seen = self.frames(self.observation, np.zeros(1, bool))
        self.observations[self.length] = self.seen[0]
        self.action = None
        if self.looks_ahead and not terminated:
            with clock("act"):
                self.action = self.actions[self.length] = self._choose(learner, shared, step + 1)
        shared.finish(Episode(self.number, self.episode_return, self.episode_length) if over else None)
        if over or terminated or self.length == len(self.rewards):
            segment, self.length = self._segment(terminated), 0  # it is over even where learning raises
            with clock("learn"):
                learner.learn(segment)
        if over:
            self._begin(outcome.observation)

    def close(self):
        """Closes the environment."""
        self.environments.close(terminate=self.torn)

    def state(self):
        """Returns what `restore` needs beside `arrays`, as plain numbers."""
        return {
            "environments": self.environments.state(),
            "random": self.random.bit_generator.state,
            "action": self.action,
            "length": self.length,
            "torn": self.torn,
        }

    def arrays(self):
        """Returns the arrays that `restore` needs, by name."""
        arrays = {
            "observation": self.observation,
            "observations": self.observations,
            "actions": self.actions,
            "rewards": self.rewards,
        }
        return arrays if self.frames.stack is None else {**arrays, "frames": self.frames.stack}

    def restore(self, state, arrays):
        """Brings the environment back to where it was, or begins a fresh episode where that cannot be.

        Args:
            state: What `state` returned.
            arrays: What `arrays` returned.

        Returns:
            Whether the environment is back to where it was.
        """
        self.random.bit_generator.state = state["random"]
        observation, rewards = self.environments.restore(state["environments"])
        exact = observation is not None and np.array_equal(self.preprocess(observation), arrays["observation"])
        if not exact or state.get("torn"):  # the environment may be a step, or an episode, ahead of the segment
            self.environments.episodes[:] = state["environments"]["episodes"]
            self._begin(self.environments.reset())
            return False
        self.observation = arrays["observation"]
        self.frames.stack = arrays.get("frames")
        self.seen = self.observation if self.frames.stack is None else self.frames.stack.copy()
        self.action, self.length = state["action"], state["length"]
        self.observations, self.actions, self.rewards = (arrays[x] for x in ("observations", "actions", "rewards"))
        self.episode_return, self.episode_length = sum(rewards[0], 0.0), len(rewards[0])
        return True

    def _begin(self, observation):
        """Takes note of an episode's first observation, `[1, ...]`."""
        self.observation = self.preprocess(observation)
        self.episode_return, self.episode_length = 0.0, 0
        self._check("observation", self.observation)
        self.seen = self.frames(self.observation, np.ones(1, bool))
        self.action = None

    def _choose(self, learner, shared, step):
        """Returns an epsilon-greedy action for what is seen now."""
        values = learner.values(shared.weights, self.seen)
        if self.random.random() >= self.epsilon(step):
            return int(np.argmax(values))
        legal = np.flatnonzero(values != -np.inf)
        return int(self.random.choice(legal if len(legal) else len(values)))

    def _segment(self, terminated):
        """Returns the `Segment` so far; `terminated` is whether its last step was an episode's end."""
        length, size = self.length, len(self.rewards)
        returns, discount, bootstrap = np.zeros(size, "float32"), np.zeros(size, "float32"), np.zeros(size, "int32")
        for start in range(length):
            end = min(start + self.n_step, length)
            rewards = self.rewards[start:end]
            returns[start] = rewards @ self.discount ** np.arange(end - start)
            discount[start] = 0.0 if terminated and end == length else self.discount ** (end - start)
            bootstrap[start] = end
        mask = (np.arange(size) < length).astype("float32")
        # The device may still read these arrays while the next segment is written.
        observations, actions = _aligned_copy(self.observations), self.actions.copy()
        observations[length + 1 :] = observations[length]
        return Segment(observations, actions, returns, discount, bootstrap, mask)

    def _check(self, what, values, over=False):
        """Raises ValueError where a number is NaN or infinite. Step 0 of an episode is its first observation; where
        one is `over`, the next has been counted already."""
        if flaw_of(values):
            raise ValueError(
                f"The {what} of worker {self.number} is {flaw_of(values)} at step "
                f"{self.episode_length} of its episode {int(self.environments.episodes[0]) - over}."
            )


def make_workers(env, number, *, preprocess, final_epsilons, epsilon_anneal, seed, **settings):
    """Returns so many `Worker`s, each with an environment, a seed and a final epsilon of its own.

    Args:
        env: As in `make_vector`.
        number: How many.
        preprocess: As in `Preprocessing`.
        final_epsilons: A dict of final epsilons and their probabilities.
        epsilon_anneal: Environment steps of all workers in which epsilon falls from 1.
        seed: The run's seed.
        **settings: Those of `Worker`.

    Raises:
        ValueError: If two workers would share an environment, or one does not let itself be reset by hand.
    """
    vectors = _make_vectors(env, number)
    finals, weights = list(final_epsilons), np.array(list(final_epsilons.values()), "float64")
    workers: list[Worker] = []
    with closing_on_error(env, lambda: [vector.close() for vector in vectors]):
        for vector, worker_seed in zip(vectors, episode_seeds([seed, 2**32 - 2], number), strict=True):
            environments = Environments(vector, seed=worker_seed)
            if not environments.exact:
                raise ValueError("The environment must let itself be reset by hand: AutoresetMode.DISABLED.")
            random = np.random.default_rng(worker_seed)
            final = finals[random.choice(len(finals), p=weights / weights.sum())]
            worker = Worker(
                len(workers),
                environments,
                Preprocessing(preprocess, environments.observation_space),
                epsilon=linear(1.0, final, steps=epsilon_anneal),
                random=random,
                **settings,
            )
            workers.append(worker)
    return workers


def _make_vectors(env, number):
    """Returns so many vector environments of one stream, after checking that no two step the same environment."""
    vectors: list[Any] = []
    with closing_on_error(env, lambda: [vector.close() for vector in vectors]):
        for _ in range(number):
            vectors.append(make_vector(env, num_envs=1))
    check_distinct([one for vector in vectors for one in envs_of(vector)])  # what is handed out again stays open
    return vectors


def _aligned_copy(array):
    """Returns a copy at an address that is a multiple of 64: JAX copies others once more, in a thread of its own."""
    memory = np.empty(array.nbytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
