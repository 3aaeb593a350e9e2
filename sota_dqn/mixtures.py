"""What is made of several policies, and decides on the host, step by step, which of them acts in which stream.

A `Selection` is no function, and holds what it has decided: one belongs to one trainer. To add one, write a subclass
with `select`, `state` and `restore`, decorated with `recorded` so that a checkpoint can name it.
"""

import collections
from typing import Any

import numpy as np

from sota_dqn.checks import check_count, check_probability, is_integer
from sota_dqn.types import recorded

__all__ = ["AdvSwitch", "Mixture", "Selection", "Switching"]


class Selection:
    """Base of what decides on the host which of several policies acts in which stream.

    Args:
        parts: The policies, functions each.
    """

    names: tuple[str, ...] = ()  # under which episodes are logged; none where they are not told apart

    def __init__(self, parts):
        self.parts = list(parts)
        for part in self.parts:
            if isinstance(part, Selection) or not callable(part):
                raise TypeError(f"{type(self).__name__} is made of functions of values. Received: {part!r}")
        self.random: Any = None  # a `numpy.random.Generator`, after `start`

    def start(self, num_envs, random):
        """Prepares for E streams."""
        self.random = random

    def select(self, begun, lengths, step):
        """Returns which of `parts` acts now in each stream: `[E]` int32.

        Args:
            begun: `[E]` bool, where an episode begins with this step.
            lengths: `[E]`, the steps made in each running episode.
            step: Environment steps made so far, over all streams.
        """
        raise NotImplementedError

    def name(self, stream):
        """Returns under which of `names` the running episode of a stream is logged, or None."""
        return None

    def ended(self, stream, length):
        """Takes note of an episode of `length` steps that ended."""

    def state(self):
        """Returns what `restore` needs, as plain numbers and strings, and by what `restore` knows it for its own."""
        raise NotImplementedError

    def restore(self, state):
        """Goes on where `state` was taken. One that another selection returned is left: this one begins anew."""
        raise NotImplementedError


@recorded
class Switching(Selection):
    """One of two policies; before every step of an episode but its first, the other takes over with a probability.

    Args:
        first: The policy that begins an episode.
        second: The other.
        probability: In [0, 1].
    """

    def __init__(self, first, second, probability):
        super().__init__([first, second])
        check_probability(probability=probability)
        self.probability = probability

    def start(self, num_envs, random):
        super().start(num_envs, random)
        self.acting = np.zeros(num_envs, "int32")

    def select(self, begun, lengths, step):
        toggled = self.random.random(len(begun)) < self.probability
        self.acting = np.where(begun, 0, self.acting ^ toggled).astype("int32")
        return self.acting

    def state(self):
        return {**_identity(self), "acting": self.acting.tolist()}

    def restore(self, state):
        if _is_of(state, self):
            self.acting = np.array(state["acting"], "int32")


@recorded
class AdvSwitch(Selection):
    """Acts by one policy until shortly before episodes have lately ended, and by another from there on.

    Exploration then begins where the agent is about to fail, instead of all the way there. After RLframework. Each
    episode draws one of the lengths seen lately; before there is one, the first policy acts alone.

    Args:
        before: The policy up to the switch, as `Greedy()`.
        after: The policy from there on, as `EpsilonGreedy(0.1)`.
        margin: Steps before the drawn length at which it switches.
        memory: Lengths that are remembered.
        reference: In a `Mixture`, the name of the policy whose episodes' lengths count; None for its own.
    """

    def __init__(self, before, after, *, margin=10, memory=100, reference=None):
        super().__init__([before, after])
        check_count(1, margin=margin, memory=memory)
        self.margin = margin
        self.reference = reference
        self.seen: collections.deque[int] = collections.deque(maxlen=memory)

    def start(self, num_envs, random):
        super().start(num_envs, random)
        self.switches = np.full(num_envs, np.inf)

    def select(self, begun, lengths, step):
        for stream in np.flatnonzero(begun):
            self.switches[stream] = self.random.choice(self.seen) - self.margin if self.seen else np.inf
        return (lengths >= self.switches).astype("int32")

    def ended(self, stream, length):
        if self.reference is None:
            self.seen.append(int(length))

    def heard(self, name, length):
        """Takes note of an episode that another policy of the mixture played."""
        if name == self.reference:
            self.seen.append(int(length))

    def state(self):
        switches = [None if s == np.inf else int(s) for s in self.switches]
        return {**_identity(self), "seen": list(self.seen), "switches": switches}

    def restore(self, state):
        if _is_of(state, self):
            self.seen.clear()
            self.seen.extend(state["seen"])
            self.switches = np.array([np.inf if s is None else s for s in state["switches"]])


@recorded
class Mixture(Selection):
    """Assigns one of several policies to each episode, drawn by weights that may change in time.

    Returns and lengths of episodes are logged for each: `episode_return/NAME` and `episode_length/NAME`.

    Args:
        policies: A dict of names and policies; `Switching` and `AdvSwitch` may be among them.
        weights: A dict of names and weights, those left out weigh nothing; None for equal ones. Or a schedule: a dict
            of environment steps, the first 0, and such dicts, each of which holds for episodes that begin from that
            step on.
    """

    def __init__(self, policies, weights=None):
        if not isinstance(policies, dict) or not policies or not all(isinstance(name, str) for name in policies):
            raise TypeError(f"Argument `policies` must be a dict of names and policies. Received: policies={policies}")
        self.names = tuple(policies)
        self.policies = list(policies.values())
        if any(isinstance(policy, Mixture) for policy in self.policies):
            raise TypeError("A mixture has no mixtures in it: give their policies to it.")
        parts = [policy.parts if isinstance(policy, Selection) else [policy] for policy in self.policies]
        super().__init__(part for several in parts for part in several)
        self.first = np.cumsum([0, *map(len, parts[:-1])])  # each policy's place among `parts`
        self.schedule = self._schedule(weights)
        held: dict[int, str] = {}
        for name, policy in policies.items():
            if isinstance(policy, Selection) and held.setdefault(id(policy), name) != name:
                raise ValueError(
                    f"Argument `policies` must have a {type(policy).__name__} of its own under each name. "
                    f"Received: the same one as {held[id(policy)]!r} and {name!r}"
                )
            reference = getattr(policy, "reference", None)
            if reference is not None and reference not in self.names:
                raise ValueError(f"Argument `reference` must be one of {self.names}. Received: reference={reference!r}")

    def start(self, num_envs, random):
        super().start(num_envs, random)
        self.assigned = np.full(num_envs, -1, "int32")  # to none, until one is drawn
        for policy in self.policies:
            if isinstance(policy, Selection):
                policy.start(num_envs, random)

    def select(self, begun, lengths, step):
        weights = self.weights(step)
        for stream in np.flatnonzero(begun | (self.assigned < 0)):
            self.assigned[stream] = self.random.choice(len(weights), p=weights)
        which = self.first[self.assigned]
        for place, policy in enumerate(self.policies):
            if isinstance(policy, Selection):
                mine = self.assigned == place
                which = which + np.where(mine, policy.select(begun, lengths, step), 0)
        return which.astype("int32")

    def weights(self, step):
        """Returns the probabilities of the policies, `[P]`, for episodes that begin at a step."""
        begin = max(begin for begin in self.schedule if begin <= step)
        return self.schedule[begin]

    def name(self, stream):
        return self.names[self.assigned[stream]]

    def ended(self, stream, length):
        policy, name = self.policies[self.assigned[stream]], self.name(stream)
        if isinstance(policy, Selection):
            policy.ended(stream, length)
        for other in self.policies:
            if isinstance(other, AdvSwitch):
                other.heard(name, length)

    def state(self):
        states = [policy.state() if isinstance(policy, Selection) else None for policy in self.policies]
        return {**_identity(self), "assigned": self.assigned.tolist(), "policies": states}

    def restore(self, state):
        if not _is_of(state, self):
            return
        self.assigned = np.array(state["assigned"], "int32")
        for policy, one in zip(self.policies, state["policies"], strict=True):
            if isinstance(policy, Selection):
                policy.restore(one)

    def _schedule(self, weights):
        """Returns a dict of environment steps and the probabilities `[P]` from there on."""
        if weights is None:
            weights = dict.fromkeys(self.names, 1.0)
        if not isinstance(weights, dict) or not weights:
            raise TypeError(f"Argument `weights` must be a dict. Received: weights={weights!r}")
        if all(isinstance(key, str) for key in weights):
            weights = {0: weights}
        if not all(is_integer(key) for key in weights) or min(weights) != 0:
            raise ValueError(
                "Argument `weights` must be a dict of names, or of environment steps from 0 on. "
                f"Received: weights={weights}"
            )
        schedule = {}
        for begin, given in weights.items():
            unknown = [name for name in given if name not in self.names]
            if unknown:
                raise ValueError(f"Argument `weights` must name policies among {self.names}. Received: {unknown[0]!r}")
            values = np.array([given.get(name, 0.0) for name in self.names], float)
            if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
                raise ValueError(
                    "Argument `weights` must be at least 0 and finite, and sum to more than 0. "
                    f"Received: {given} from step {begin} on"
                )
            schedule[int(begin)] = values / values.sum()
        return schedule


def _identity(selection):
    """Returns what tells the state of a selection from that of others."""
    return {"selection": type(selection).__name__, "names": list(selection.names)}


def _is_of(state, selection):
    """Returns whether `state` is one that such a selection returned."""
    return isinstance(state, dict) and _identity(selection).items() <= state.items()
