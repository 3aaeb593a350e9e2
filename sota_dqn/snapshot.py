"""What of a trainer is in a checkpoint, and how a trainer takes it over again."""

import math
import pathlib

import keras
import numpy as np

from sota_dqn import backend, checkpoint
from sota_dqn.checks import check_bool
from sota_dqn.spaces import describe_space

__all__ = [
    "arguments_of",
    "check_spaces_of",
    "huber_delta",
    "load_model",
    "rescue",
    "restore",
    "save",
    "settings",
    "spaces_of",
]


def save(trainer, path, *, replay):
    """Writes a checkpoint of `trainer` to the directory `path`; `replay` is whether the rows are part of it."""
    check_bool(replay=replay)
    trainer.check_compiled()
    trainer.actor.flush()
    config = {
        "run": trainer.run,
        "steps": trainer.steps,
        "updates": trainer.updates,
        "episodes": trainer.episodes,
        **spaces_of(trainer.actor.environments, trainer.actor.preprocess),
        "replay": replay,
        "reach": _reach(trainer),
        "clip_rewards": trainer.actor.clip_rewards,
        "huber_delta": huber_delta(trainer.model.loss),
        **settings(trainer),
    }
    state = {
        "actor": trainer.actor.state(),
        "epoch": trainer.epoch.state(),
        "evaluations": trainer.evaluations,
        "history": trainer.history,
        "pace": _pace(trainer),
        "random": {name: generator.bit_generator.state for name, generator in trainer.random.items()},
    }
    with trainer.learner.settled():
        arrays = {**trainer.actor.arrays(), **_variables(trainer, replay)}
        recurrent = trainer.learner.recurrent
        played = enumerate(recurrent.initial if recurrent else [])  # what is not in model.keras, for `DQNInference`
        arrays |= {f"initial_state_{i}": variable for i, variable in played}
        checkpoint.save(path, config=config, state=state, model=trainer.model, arrays=arrays)


def settings(trainer):
    """Returns by what a run was made: the trainer's name, its arguments but the model as JSON, and the backend."""
    factory, arguments = trainer.recipe
    return {
        "trainer": factory.__name__,
        "backend": backend.BACKEND,
        "keras": keras.__version__,
        "arguments": {name: checkpoint.encode(value, name) for name, value in arguments.items() if name != "model"},
    }


def rescue(trainer, error, path, *, replay):
    """Writes a checkpoint after `error`, and notes in it where that is."""
    try:
        path = pathlib.Path(path).absolute()
        trainer.save(path, replay=replay)
        error.add_note(f"What was learned so far is in {path}: {type(trainer).__name__}.load({str(path)!r}) goes on.")
    except Exception as failure:
        error.add_note(f"A checkpoint could not be written to {path} either: {failure}")


def arguments_of(found, given):
    """Returns the arguments of a checkpoint's trainer, those that are `given` in the place of its own."""
    return {
        name: given[name] if name in given else checkpoint.decode(value, name)
        for name, value in found.config["arguments"].items()
    }


def load_model(found, custom_objects):
    """Returns the model of the checkpoint `found`, with the loss that it was trained with."""
    model = checkpoint.load_model(found.model_path, custom_objects)
    if found.config["huber_delta"] is not None:
        model.loss = keras.losses.Huber(found.config["huber_delta"])
    return model


def restore(trainer, found):
    """Brings a new trainer to where the checkpoint `found` was written.

    Returns:
        Whether the environments are back to where they were. If not, fresh episodes have begun.

    Raises:
        ValueError: If the checkpoint is of another environment, or its arrays do not fit. Nothing is changed then.
    """
    config, state = found.config, found.state
    check_spaces_of(found, trainer.actor.environments, trainer.actor.preprocess)
    num_envs = len(state["actor"]["count"])
    if num_envs != trainer.actor.num_envs:
        raise ValueError(
            f"Argument `num_envs` must be that of the checkpoint {found.path}, {num_envs}. Received: "
            f"num_envs={trainer.actor.num_envs}{'' if trainer.actors is None else ' over all actors'}"
        )
    variables = _variables(trainer, config["replay"])
    theirs, ours = ({name for name in names if name.startswith("replay_")} for names in (config["arrays"], variables))
    if theirs and ours:
        saved, now = config["arrays"]["replay_0"][0][0], variables["replay_0"].shape[0]
        if saved != now:
            raise ValueError(
                f"Argument `replay` must be of the capacity of the checkpoint {found.path}, whose replay has {saved:,} "
                f"rows, or it must be saved with replay=False. Received: replay of {now:,} rows"
            )
    if theirs != ours:
        raise ValueError(
            f"The rows in the checkpoint {found.path} are of a replay with another sampler or other bounds. Go on with "
            "those of the checkpoint, or save it with replay=False and begin with an empty replay."
        )
    for name, variable in variables.items():
        found.check(name, variable)
    for name, variable in variables.items():
        found.assign(name, variable)
    if config["replay"]:
        trainer.replay.withdraw(state["actor"]["count"], **config.get("reach", _reach(trainer)))
    trainer.steps, trainer.episodes, trainer.learner.updates = config["steps"], config["episodes"], config["updates"]
    trainer.learner.settle()
    trainer.run = config["run"]
    trainer.evaluations, trainer.history = state["evaluations"], state["history"]
    before, now = state["pace"], _pace(trainer)
    if before["bounds"] == now["bounds"] and before["learning_starts"] == now["learning_starts"]:
        trainer.pace.origin = tuple(before["origin"])
    else:  # another pace counts from here on, or it would be owed for the steps so far
        trainer.pace.origin = (max(trainer.steps, trainer.learning_starts), trainer.learner.updates)
    trainer.epoch.restore(state["epoch"])
    for name, generator in trainer.random.items():
        generator.bit_generator.state = state["random"][name]
    if not config["replay"]:  # an empty replay has to fill before updates go on
        state["actor"]["count"] = [0] * num_envs
        trainer.pace.origin = (max(trainer.steps + trainer.learning_starts, trainer.pace.origin[0]), trainer.updates)
    names = [name for name in config["arrays"] if name.startswith("actor_")]
    return trainer.actor.restore(state["actor"], {name: np.array(found.array(name)) for name in names})


def _reach(trainer):
    """Returns how many rows after and before a drawn one its window reads."""
    return {"after": trainer.replay.after, "before": trainer.replay.before}


def _pace(trainer):
    """Returns how steps and updates keep pace, and from where they count."""
    pace = trainer.pace
    bounds = [pace.least, None if math.isinf(pace.most) else pace.most]
    return {"origin": list(pace.origin), "bounds": bounds, "learning_starts": trainer.learning_starts}


def huber_delta(loss):
    """Returns the delta of Keras's Huber loss, which a `.keras` file does not keep; None for any other loss."""
    return loss._fn_kwargs["delta"] if type(loss) is keras.losses.Huber else None


def spaces_of(environments, preprocess):
    """Returns what an environment must have in common with the one trained in."""
    return {
        "observation": [list(preprocess.shape), preprocess.dtype],
        "observation_space": describe_space(environments.observation_space),
        "num_actions": int(environments.action_space.n),
        "action_start": int(environments.action_space.start),
    }


def check_spaces_of(found, environments, preprocess):
    """Raises ValueError where the checkpoint `found` is of another environment."""
    spaces = spaces_of(environments, preprocess)
    if any(found.config[name] != value for name, value in spaces.items()):
        theirs = {name: found.config[name] for name in spaces}
        raise ValueError(f"The checkpoint {found.path} is of another environment: {theirs}. Received: {spaces}")


def _variables(trainer, replay):
    """Returns all variables of a trainer by name, arrays where the model holds an average of what is trained."""
    groups = {
        "model": trainer.learner.trained(),
        "optimizer": trainer.learner.optimizer.variables,
        "target": trainer.learner.target_variables,
        "average": trainer.learner.average_variables,
        "replay": trainer.replay.variables if replay else [],
    }
    return {f"{group}_{i}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}
