"""What asynchronous workers share: the weights, the optimizer's statistics, the target weights, and the counters.

Weights are published as a list of arrays that nobody changes: an update makes new ones and puts them in the place of
the old in one step. Whoever took the old list goes on with it, so that no worker ever reads half an update. Updates are
applied one after the other, under a lock, and each is applied once; nothing else waits for that lock. Steps are
counted under another, and the step that reaches a multiple of the target's interval refreshes the target: no step is
lost, and no refresh is skipped.
"""

import threading

import numpy as np
from keras import ops

from sota_dqn import backend

__all__ = ["Shared"]


class Shared:
    """The shared part of a run.

    Args:
        model: A Keras model, whose variables always hold the newest weights.
        optimizer: A Keras optimizer.
        target_update: Environment steps between two copies of the weights into the target.
        learning_rate: A schedule, asked at every update for the environment steps so far; None leaves the optimizer's
            learning rate alone.
    """

    def __init__(self, model, optimizer, *, target_update, learning_rate=None):
        self.model = model
        self.optimizer = optimizer
        self.target_update = target_update
        self.learning_rate = learning_rate
        self._applying, self._counting = threading.Lock(), threading.Lock()
        self.steps = self.updates = self.refreshes = 0
        self.episodes = []  # that ended since the last `collect`, as (total steps then, `Episode`)
        self.metrics = []  # of the updates since then
        self._begun = self._limit = 0
        self._stopped = lambda: False
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        self._others = [x for x in model.variables if all(x is not y for y in model.trainable_variables)]
        # No loops, and workers fill the cores: what is fastest for dense networks is so for convolutions too.
        program = backend.Program([], [*model.variables, *optimizer.variables], backend.plan(convolutions=False))

        def update(gradients, others, rate):
            for variable, value in zip(self._others, others, strict=True):
                variable.assign(value)
            if learning_rate is not None:
                optimizer.learning_rate = rate
            program.apply(optimizer, gradients, model.trainable_variables)
            return self._copies()

        self._update = program.compile(update)
        self._publish = program.compile(self._copies)
        self.publish()
        self.target = self.weights

    def begin(self):
        """Reserves a step and returns how many were reserved before it, in all; None where workers are to stop."""
        with self._counting:
            if self._begun >= self._limit or self._stopped():
                return None
            self._begun += 1
            return self._begun - 1

    def finish(self, episode=None):
        """Counts a step that is complete, refreshes the target where it is due, and keeps the episode that ended."""
        with self._counting:
            self.steps += 1
            if episode is not None:
                self.episodes.append((self.steps, episode))
            if self.steps % self.target_update == 0:
                self.target = self.weights
                self.refreshes += 1

    def read(self):
        """Returns the weights and the target weights, two lists of arrays."""
        with self._counting:
            return self.weights, self.target

    def apply(self, gradients, others, metrics):
        """Applies one update.

        Args:
            gradients: One for each trainable variable.
            others: New values of the variables that are not trained, such as the moving averages of a normalization.
            metrics: A dict of float32 scalars.
        """
        with self._applying:
            rate = 0.0 if self.learning_rate is None else self.learning_rate(self.steps)
            self.weights = self._update(gradients, others, np.float32(rate))
            self.updates += 1
            self.metrics.append(metrics)

    def publish(self):
        """Publishes what the model's variables hold, after somebody else has changed them."""
        self.weights = self._publish()

    def allow(self, limit, stopped):
        """Lets workers make steps until `limit` in all, or until the function `stopped` says so."""
        self._begun, self._limit, self._stopped = self.steps, limit, stopped

    def stop(self):
        """Tells workers to stop after their running step."""
        self._limit = 0

    def collect(self):
        """Returns the episodes and the metrics since the last call, two lists in the order of what happened."""
        episodes, metrics = self.episodes, self.metrics
        self.episodes, self.metrics = [], []
        return episodes, metrics

    def restore(self, target, *, steps, updates):
        """Goes on where a checkpoint was written, with the model and the optimizer that it held."""
        self.steps, self.updates, self.refreshes = steps, updates, steps // self.target_update
        self.publish()
        self.target = target

    def _copies(self):
        return [ops.copy(variable.value) for variable in self.model.variables]
