"""Vector environments: built from whatever the user has."""

import contextlib
import functools
import inspect
import signal
import threading

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sota_dqn.checks import check_distinct, check_id

__all__ = ["NUM_ENVS", "closing_on_error", "envs_of", "is_vector", "make_factory", "make_vector"]

MODES = ("sync", "async", "vector_entry_point")
NUM_ENVS = 16  # where the user names no number


def make_factory(env, argument="env"):
    """Returns a function of `render_mode` that makes one environment like `env`, or None where that cannot be.

    Args:
        env: An id, a callable that returns a `gymnasium.Env` (it takes `render_mode` when films are made), a
            `gymnasium.Env`, or a `gymnasium.vector.VectorEnv`.
        argument: What the user's argument is called, for the error.

    Raises:
        ValueError: If the id is not registered.
        TypeError: If `env` is none of these.
    """
    if isinstance(env, str):
        check_id(env)
        # Not the id: a worker process has yet to import what registers it.
        return functools.partial(gymnasium.make, gymnasium.spec(env), disable_env_checker=True)
    if is_vector(env):
        return None
    if isinstance(env, gymnasium.Env):
        spec = _recipe(env)
        return spec and functools.partial(gymnasium.make, spec, disable_env_checker=True)
    if callable(env) and not hasattr(env, "trainable_variables"):  # a model in its place
        factory = functools.partial(_call, env)
        if hasattr(env, "make_vector"):
            factory.make_vector = env.make_vector  # type: ignore[attr-defined]
        return factory
    raise TypeError(
        f"Argument `{argument}` must be an id, a callable, a gymnasium.Env or a gymnasium VectorEnv. "
        f"Received: {argument}={env!r}"
    )


def make_vector(env, *, num_envs=None, mode=None):
    """Returns a vector environment.

    Args:
        env: As in `make_factory`. An object with a method `make_vector(num_envs)`, such as `Atari`, makes its own.
        num_envs: E; None for 16, or for what a ready environment has.
        mode: None is `"sync"`, which steps in this process; `"async"` has a worker process for each environment,
            `"vector_entry_point"` uses the vector environment that the id is registered with.

    Raises:
        ValueError: If the arguments do not fit together.
    """
    if hasattr(env, "make_vector"):
        if mode is not None:
            raise ValueError(
                "This environment brings its own way of being stepped side by side: leave `vectorization_mode` out. "
                f"Received: env={env!r}, vectorization_mode={mode!r}"
            )
        return env.make_vector(NUM_ENVS if num_envs is None else num_envs)
    mode = "sync" if mode is None else mode
    if mode not in MODES:
        raise ValueError(f"Argument `vectorization_mode` must be one of {MODES}. Received: vectorization_mode={mode!r}")
    factory = make_factory(env)
    if is_vector(env):
        if num_envs not in (None, env.num_envs):
            raise ValueError(
                f"Argument `num_envs` must be that of the vector environment, {env.num_envs}. Received: "
                f"num_envs={num_envs}"
            )
        return env
    if factory is None:
        if num_envs != 1 or mode != "sync":
            raise ValueError(
                "This environment cannot be built again: pass num_envs=1 and vectorization_mode='sync', or a callable "
                f"that makes it. Received: num_envs={num_envs}, vectorization_mode={mode!r}"
            )
        return _Own([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    num_envs = NUM_ENVS if num_envs is None else num_envs
    if mode == "vector_entry_point":
        if not isinstance(env, str):
            raise ValueError(
                f"`vectorization_mode='vector_entry_point'` needs an environment id. Received: env={env!r}"
            )
        if gymnasium.spec(env).vector_entry_point is None:
            raise ValueError(f"The id is registered without a vector environment of its own. Received: env={env!r}")
        return gymnasium.make_vec(env, num_envs=num_envs, vectorization_mode=mode)
    if mode == "sync":
        vector = SyncVectorEnv([factory] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        check_distinct(vector.envs)
        return vector
    # A callable without this package around it, which workers would have to import, and Keras with it.
    return _make_async(env if callable(env) else factory, num_envs)


@contextlib.contextmanager
def closing_on_error(env, close):
    """Calls `close` where the block raises, unless `env` is the user's own environment, which may be used again.

    Args:
        env: What `make_vector` was given.
        close: A function that closes what it returned.
    """
    try:
        yield
    except BaseException:
        if hasattr(env, "make_vector") or make_factory(env) is not None:
            close()
        raise


def envs_of(vector):
    """Returns the environments of a vector environment that steps them in this process, one by one; else none."""
    vector = getattr(vector, "unwrapped", vector)
    return list(vector.envs) if isinstance(vector, SyncVectorEnv) else []


def is_vector(env):
    """Returns whether `env` steps several environments at once; EnvPool's objects do without being a `VectorEnv`."""
    return isinstance(env, VectorEnv) or (hasattr(env, "num_envs") and hasattr(env, "single_observation_space"))


class _Own(SyncVectorEnv):
    """The user's own environment. Before Gymnasium 1.3 it would be closed where this object is dropped."""

    def __del__(self):
        pass


def _call(function, render_mode=None):
    """Makes one environment with the user's callable, which needs to know of `render_mode` only for films."""
    if render_mode is None:
        made = function()
    else:
        parameters = inspect.signature(function).parameters.values()
        if not any(p.name == "render_mode" or p.kind == p.VAR_KEYWORD for p in parameters):
            raise TypeError(f"An environment's callable must take `render_mode` for films. Received: env={function!r}")
        made = function(render_mode=render_mode)
    if not isinstance(made, gymnasium.Env):
        raise TypeError(f"An environment's callable must return a gymnasium.Env. Received: {made!r} of {function!r}")
    return made


def _recipe(env):
    """Returns the spec from which `env` can be built again, its wrappers included, or None."""
    spec = env.spec
    known = spec is not None and all(wrapper.kwargs is not None for wrapper in spec.additional_wrappers)
    return spec if known else None


def _make_async(factory, num_envs):
    """Returns worker processes that leave Ctrl-C to this process, which then finishes its step first."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        return AsyncVectorEnv([factory] * num_envs, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
    except AttributeError:
        _call(factory).close()  # it tells better of what is no environment
        raise
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            "The worker processes did not start. A script that uses vectorization_mode='async' must keep its work "
            'under `if __name__ == "__main__":`, since each worker imports it.'
        ) from error
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
