"""What the ablation switches: factors, their levels, and which level of each is the library's default.

To add a factor, add its levels to `FACTORS` and its default to `DEFAULTS`.
"""

from sota_dqn import Replay, callbacks, losses, policies, returns, samplers, schedules, targets
from sota_dqn.dqn import DEFAULT_BOUNDS

__all__ = ["DEFAULTS", "FACTORS", "variants"]

# DeepMellow's authors took 1, 2 or 5 for classic control; one value for all tasks here.
OMEGA = 5.0


def _trainer(**settings):
    return {}, settings


def _model(**settings):
    return settings, {}


def _epsilon_greedy(hold):
    return policies.EpsilonGreedy(schedules.linear(1.0, 0.05, steps=20_000), hold=hold)


class LastWeights(callbacks.Evaluation):
    """Evaluates the weights that are trained, and not their average."""

    def on_epoch_end(self, epoch, logs=None):
        with self.trainer.learner.training():
            super().on_epoch_end(epoch, logs)


# Each level is a function that returns the settings of `learning.build_model` and those of `DQNTrainer`, among which
# `evaluation` is the class of the callback that evaluates.
FACTORS = {
    "target": {
        "double": lambda: _trainer(target=targets.double),
        "maximum": lambda: _trainer(target=targets.maximum),
        "mellowmax, no target model": lambda: _trainer(target=targets.mellowmax(OMEGA), target_update=None),
    },
    "head": {
        "linear": lambda: _model(dueling=False),
        "dueling": lambda: _model(dueling=True),
    },
    "replay": {
        "prioritized": lambda: _trainer(replay=Replay(sampler=samplers.Prioritized())),
        "uniform": lambda: _trainer(replay=Replay(sampler=samplers.Uniform())),
    },
    "n-step": {
        "1": lambda: _trainer(n_step=1),
        "2": lambda: _trainer(n_step=2),
        "3": lambda: _trainer(n_step=3),
        "5": lambda: _trainer(n_step=5),
        "5, no lower bound": lambda: _trainer(n_step=5, bounds=None),
    },
    "lower bound": {
        "off": lambda: _trainer(bounds=None),
        "He, weight 4": lambda: _trainer(bounds=DEFAULT_BOUNDS),  # 4 is what `lower_bound` has by default
        "He, weight 0.25": lambda: _trainer(bounds=returns.Bounds(), penalty=losses.lower_bound(weight=0.25)),
        "linear": lambda: _trainer(bounds=returns.Bounds(), penalty=losses.linear_lower_bound()),
    },
    "exploration": {
        "every step anew": lambda: _trainer(policy=_epsilon_greedy(hold=1)),
        "held, at most 20 steps": lambda: _trainer(policy=_epsilon_greedy(hold=20)),
    },
    "optimizer": {
        "Adam 1e-3, Huber": lambda: _model(),
        "Adam 1e-3, squared": lambda: _model(learning_rate=1e-3, loss="mse"),
        "Adam 5e-4, Huber": lambda: _model(learning_rate=5e-4, loss="huber"),
    },
    "evaluated": {
        "average of the weights": lambda: _trainer(),
        "last weights": lambda: _trainer(evaluation=LastWeights),
    },
    "normalization": {
        "LayerNorm": lambda: _model(layer_norm=True),
        "none": lambda: _model(layer_norm=False),
    },
}

# The network's are those of `learning.build_model`, the others those of `DQNTrainer`.
DEFAULTS = {
    "target": "double",
    "head": "linear",
    "replay": "uniform",
    "n-step": "2",
    "lower bound": "He, weight 4",
    "exploration": "every step anew",
    "optimizer": "Adam 1e-3, Huber",
    "evaluated": "average of the weights",
    "normalization": "LayerNorm",
}


def variants():
    """Yields `(factor, level)` of everything that differs from the defaults in one factor, `(None, None)` first."""
    yield None, None
    for factor, levels in FACTORS.items():
        yield from ((factor, level) for level in levels if level != DEFAULTS[factor])
