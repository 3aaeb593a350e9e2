"""What of a run with asynchronous workers is in a checkpoint, and how a trainer takes it over again."""

import keras
import numpy as np

from sota_dqn import checkpoint, snapshot

__all__ = ["restore", "save"]


def save(trainer, path):
    """Writes a checkpoint of `trainer` to the directory `path`. The workers must be at rest."""
    trainer.check_compiled()
    first = trainer.workers[0]
    config = {
        "run": trainer.run,
        "steps": trainer.steps,
        "updates": trainer.updates,
        "episodes": trainer.episodes,
        **snapshot.spaces_of(first.environments, first.preprocess),
        "clip_rewards": first.clip_rewards,
        "huber_delta": snapshot.huber_delta(trainer.model.loss),
        **snapshot.settings(trainer),
    }
    state = {
        "workers": [worker.state() for worker in trainer.workers],
        "epoch": trainer.epoch.state(),
        "evaluations": trainer.evaluations,
        "history": trainer.history,
        "initial_rate": trainer.initial_rate,
    }
    arrays = _variables(trainer)
    for i, weights in enumerate(trainer.shared.target):
        arrays[f"target_{i}"] = keras.ops.convert_to_numpy(weights)
    for worker in trainer.workers:
        arrays |= {f"worker_{worker.number}_{name}": values for name, values in worker.arrays().items()}
    checkpoint.save(path, config=config, state=state, model=trainer.model, arrays=arrays)


def restore(trainer, found):
    """Brings a new trainer to where the checkpoint `found` was written.

    Returns:
        Whether all environments are back to where they were. Where one is not, a fresh episode has begun.

    Raises:
        ValueError: If the checkpoint is of another environment, or its arrays do not fit. Nothing is changed then.
    """
    config, state, first = found.config, found.state, trainer.workers[0]
    snapshot.check_spaces_of(found, first.environments, first.preprocess)
    if len(state["workers"]) != len(trainer.workers):
        raise ValueError(
            f"Argument `workers` must be that of the checkpoint {found.path}, {len(state['workers'])}. "
            f"Received: workers={len(trainer.workers)}"
        )
    variables = _variables(trainer)
    targets = {f"target_{i}": variable for i, variable in enumerate(trainer.model.variables)}
    carried = {f"worker_{w.number}_{name}": x for w in trainer.workers for name, x in w.arrays().items()}
    for name, variable in {**variables, **targets, **carried}.items():
        found.check(name, variable)
    for name, variable in variables.items():
        found.assign(name, variable)
    target = [
        keras.ops.convert_to_tensor(np.array(found.array(name)), dtype=variable.dtype)
        for name, variable in targets.items()
    ]
    trainer.shared.restore(target, steps=config["steps"], updates=config["updates"])
    trainer.steps, trainer.episodes, trainer.run = config["steps"], config["episodes"], config["run"]
    trainer.evaluations, trainer.history = state["evaluations"], state["history"]
    trainer.initial_rate = state["initial_rate"]
    trainer.epoch.restore(state["epoch"])
    restored = True
    for worker, saved in zip(trainer.workers, state["workers"], strict=True):
        prefix = f"worker_{worker.number}_"
        arrays = {name: np.array(found.array(prefix + name)) for name in worker.arrays()}
        restored &= worker.restore(saved, arrays)
    return restored


def _variables(trainer):
    """Returns the variables of the model and of its optimizer by name."""
    groups = {"model": trainer.model.variables, "optimizer": trainer.model.optimizer.variables}
    return {f"{group}_{i}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}
