"""What the ablation switches: factors, their levels, and which level of each is the library's default.

To add a factor, add its levels to `FACTORS` and its default to `DEFAULTS`.
"""

from sota_dqn import Replay, losses, policies, samplers, schedules, targets
from sota_dqn.dqn import DEFAULT_BOUNDS, DEFAULT_N_STEP, DEFAULT_TARGET

__all__ = ["DEFAULTS", "FACTORS", "variants"]

# DeepMellow's authors took 1, 2 or 5 for classic control; one value for all tasks here.
OMEGA = 5.0


def _trainer(**settings):
    return {}, settings


def _model(**settings):
    return settings, {}


def _epsilon_greedy(hold):
    return policies.EpsilonGreedy(schedules.linear(1.0, 0.05, steps=20_000), hold=hold)


# Each level is a function that returns the settings of `learning.build_model` and those of `DQNTrainer`.
FACTORS = {
    "target": {
        "expected SARSA 0.25": lambda: _trainer(target=DEFAULT_TARGET),
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
        "3 to 1": lambda: _trainer(n_step=DEFAULT_N_STEP),
        "3": lambda: _trainer(n_step=3),
        "5": lambda: _trainer(n_step=5),
        "5, no lower bound": lambda: _trainer(n_step=5, bounds=None),
    },
    "lower bound": {
        "off": lambda: _trainer(bounds=None),
        "He, weight 0.25": lambda: _trainer(bounds=DEFAULT_BOUNDS),
        "He, weight 4": lambda: _trainer(penalty=losses.lower_bound(weight=4.0, loss=losses.squared)),
        "linear": lambda: _trainer(penalty=losses.linear_lower_bound(loss=losses.squared)),
    },
    "exploration": {
        "every step anew": lambda: _trainer(policy=_epsilon_greedy(hold=1)),
        "held, at most 20 steps": lambda: _trainer(policy=_epsilon_greedy(hold=20)),
    },
    "optimizer": {
        "Adam 1e-3, squared": lambda: _model(),
        "Adam 1e-3, Huber": lambda: _model(learning_rate=1e-3, loss="huber"),
        "Adam 5e-4, squared": lambda: _model(learning_rate=5e-4, loss="mse"),
    },
    "evaluated": {
        "average of the weights": lambda: _trainer(),
        "last weights": lambda: _trainer(average=None),
    },
    "normalization": {
        "LayerNorm": lambda: _model(layer_norm=True),
        "none": lambda: _model(layer_norm=False),
    },
}

# The network's are those of `learning.build_model`, the others those of `DQNTrainer`.
DEFAULTS = {
    "target": "expected SARSA 0.25",
    "head": "linear",
    "replay": "uniform",
    "n-step": "3 to 1",
    "lower bound": "He, weight 0.25",
    "exploration": "every step anew",
    "optimizer": "Adam 1e-3, squared",
    "evaluated": "average of the weights",
    "normalization": "LayerNorm",
}


def variants():
    """Yields `(factor, level)` of everything that differs from the defaults in one factor, `(None, None)` first."""
    yield None, None
    for factor, levels in FACTORS.items():
        yield from ((factor, level) for level in levels if level != DEFAULTS[factor])
