"""Actors on a Ray cluster: `RayActors`. Chunks and weights travel through Ray's object store.

An actor that leaves with its machine is made again where there is room, and one for which there is no room yet joins
when there is; the others go on meanwhile. Ray is the extra `ray`, and is imported where such actors are asked for.
"""

import contextlib
import importlib
import importlib.util
import math
import os
import sys
import time
from typing import Any

import cloudpickle
from keras import ops

from sota_dqn.actor_pool import Actors
from sota_dqn.checks import check_number
from sota_dqn.processes import SLOTS, Died, actor_environment, pack
from sota_dqn.remote_actor import RemoteActor
from sota_dqn.types import recorded

__all__ = ["Cluster", "RayActors"]

PATIENCE = 60.0  # seconds without any chunk, after which the learner says what it waits for
LOOK_EVERY = 0.02  # seconds between two looks for chunks while the learner has updates to make


@recorded
class RayActors(Actors):
    """Actors on a Ray cluster.

    Where the script has not connected to a cluster by `ray.init`, the one that `RAY_ADDRESS` names is taken, or one is
    started on this machine.

    Args:
        number: N, at least 1.
        steps_per_update: As in `Actors`; so are the next three.
        weights_every: See there.
        steps_per_chunk: See there.
        restarts: See there.
        num_cpus: CPUs that the cluster keeps for each actor.
        resources: A dict of the cluster's own resources that each actor needs, or None.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(
        self,
        number,
        *,
        steps_per_update=None,
        weights_every=100,
        steps_per_chunk=None,
        restarts=3,
        num_cpus=1,
        resources=None,
    ):
        if importlib.util.find_spec("ray") is None:
            raise ImportError('Actors on a cluster need Ray: install it by `pip install "sota_dqn[ray]"`.')
        check_number(least=0, num_cpus=num_cpus)
        super().__init__(
            number,
            steps_per_update=steps_per_update,
            weights_every=weights_every,
            steps_per_chunk=steps_per_chunk,
            restarts=restarts,
        )
        self.num_cpus = num_cpus
        self.resources = resources

    def connect(self, layout, weights):
        return Cluster(self.number, num_cpus=self.num_cpus, resources=self.resources)


class Cluster:
    """Actors on a Ray cluster, in the place of `Processes`.

    Args:
        number: N.
        num_cpus: CPUs for each actor.
        resources: A dict of resources for each actor, or None.
    """

    slots = SLOTS
    starts_at_once = False  # where there is no room

    def __init__(self, number, *, num_cpus, resources):
        self.ray = importlib.import_module("ray")
        self._ours = not self.ray.is_initialized()
        if self._ours:
            self.ray.init(log_to_driver=False)
        # On this machine the modules beside the user's script are found so; other machines need them installed.
        environment = {"env_vars": {**actor_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}}
        self._make = self.ray.remote(Remote).options(
            num_cpus=num_cpus, resources=resources, runtime_env=environment, max_restarts=0
        )
        self._actors: list[Any] = [None] * number
        self._chunks: dict = {}  # those asked for, in the order of the asking, and by which actor
        self._loading: list = [None] * number
        self._processes: list = [None] * number
        self._looked = 0.0  # when chunks were last looked for
        self._wants = {"num_cpus": num_cpus, **(resources or {})}
        self._until = time.perf_counter() + PATIENCE  # when it is said that no chunk has come

    @property
    def processes(self):
        """The numbers of the processes, on whatever machine, as far as they are there."""
        there = [process for process in self._processes if process is not None]
        ready, _ = self.ray.wait(there, num_returns=len(there), timeout=0) if there else ([], [])
        numbers = []
        for process in ready:
            with contextlib.suppress(self.ray.exceptions.RayError):  # it has died before it could tell
                numbers.append(self.ray.get(process))
        return numbers

    def start(self, actor, specification):
        """Starts an actor; what was asked of the one before is forgotten."""
        if self._actors[actor] is not None:
            self.ray.kill(self._actors[actor])
        self._chunks = {chunk: other for chunk, other in self._chunks.items() if other != actor}
        self._actors[actor] = self._make.remote(self.ray.put(pack(specification)))
        self._loading[actor] = None
        self._processes[actor] = self._actors[actor].process.remote()

    def collect(self, actor, steps, others):
        """Asks an actor for a chunk; see `Processes.collect`."""
        self._chunks[self._actors[actor].collect.remote(steps, others)] = actor

    def wants_weights(self):
        """Returns whether an actor has taken over the last weights that it was offered."""
        return any(actor is not None and self._has_loaded(number) for number, actor in enumerate(self._actors))

    def publish(self, weights, updates):
        """Offers weights to all actors; one that is still busy with the last ones gets the next."""
        stored = self.ray.put(weights)
        for number, actor in enumerate(self._actors):
            if self._has_loaded(number):
                self._loading[number] = actor.load.remote(stored, updates)

    def poll(self, timeout):
        """Returns the chunks that have arrived, and who has died, as (actor, `Chunk` or `Died`).

        Where it is not to wait, it returns nothing if it has just been asked: a look costs the learner an update.
        """
        if not self._chunks:
            time.sleep(timeout)
            return []
        if timeout:
            self.ray.wait(list(self._chunks), timeout=timeout)
        elif time.perf_counter() - self._looked < LOOK_EVERY:
            return []
        self._looked = time.perf_counter()
        ready, _ = self.ray.wait(list(self._chunks), num_returns=len(self._chunks), timeout=0)
        found: list[tuple] = []
        passed = set()  # actors that have died, or whose next chunk is not here: rows are written in order
        for chunk, actor in list(self._chunks.items()):
            if actor in passed:
                continue
            if chunk not in ready:
                passed.add(actor)
                continue
            del self._chunks[chunk]
            try:
                found.append((actor, self.ray.get(chunk)))
            except self.ray.exceptions.RayError as error:
                passed.add(actor)
                found.append((actor, Died(str(error))))
        if found:
            self._until = math.inf
        elif time.perf_counter() > self._until:
            self._until = math.inf
            has = {name: number for name, number in self.ray.cluster_resources().items() if ":" not in name}
            print(f"Waiting for a first actor, which asks for {self._wants} of a machine. The cluster has {has}.")
        return found

    def _has_loaded(self, actor):
        loading = self._loading[actor]
        return loading is None or bool(self.ray.wait([loading], timeout=0)[0])

    def close(self):
        """Ends all actors, and the cluster if it was started here."""
        for actor in self._actors:
            if actor is not None:
                self.ray.kill(actor)
        self._chunks = {}
        if self._ours:
            self.ray.shutdown()


class Remote:
    """What runs in the cluster.

    Args:
        pickled: The `Specification`, of `pack`.
    """

    def __init__(self, pickled):
        self.actor = RemoteActor(cloudpickle.loads(pickled))
        self.idle_since = time.perf_counter()

    def process(self):
        """Returns the number of this process."""
        return os.getpid()

    def load(self, weights, updates):
        """Takes over weights."""
        self.actor.load([ops.copy(values) for values in weights], updates)

    def collect(self, steps, others):
        """Returns a `Chunk`; see `RemoteActor.collect`."""
        waited = time.perf_counter() - self.idle_since
        chunk = self.actor.collect(steps, others)
        self.idle_since = time.perf_counter()
        return chunk._replace(waited=waited)
