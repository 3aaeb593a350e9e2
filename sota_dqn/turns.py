"""Groups of environments that take turns: while one is stepped, actions are chosen for the next.

What steps the environments, ale-py's threads or worker processes, then never waits for the actions.
"""

import math
from typing import Any

import numpy as np

from sota_dqn.writer import Writer

__all__ = ["Turns"]


class Turns:
    """Several actors in this process, in the place of the one `Actor` of a trainer; each has its share of the streams.

    At the end of `advance` every group is being stepped; `finish` waits for them all. What is saved meanwhile is of
    before these steps.

    Args:
        actors: `Actor`s of as many environments each, which are stepped by others than this thread.
    """

    def __init__(self, actors):
        self.actors = actors
        self.share = actors[0].num_envs
        self.num_envs = self.share * len(actors)
        self.environments = actors[0].environments
        self.preprocess = actors[0].preprocess
        self.frames = actors[0].frames
        self.stacked = actors[0].stacked
        self.clip_rewards = actors[0].clip_rewards
        self.first_errors: Any = None
        self.last_step = math.inf
        self.under_way = 0  # steps that have begun and are not counted yet

    @property
    def discount(self):
        """gamma, for the returns to go; None where they are not stored."""
        return self.actors[0].discount

    @discount.setter
    def discount(self, discount):
        for actor in self.actors:
            actor.discount = discount

    @property
    def count(self):
        """Rows that each stream has produced, `[E]`."""
        return np.concatenate([actor.count for actor in self.actors])

    def connect(self, learner, choice, *, steps_per_chunk):
        """Tells where rows go and how actions are chosen.

        Args:
            learner: The `Learner`.
            choice: A `Choice`, the first group's; the others have their own chance and memory.
            steps_per_chunk: Steps of a group's environments between two writes.
        """
        choices = [choice, *map(choice.another, choice.random.spawn(len(self.actors) - 1))]
        for number, (actor, chosen) in enumerate(zip(self.actors, choices, strict=True)):
            actor.connect(_Share(learner, number * self.share, self), chosen, steps_per_chunk=steps_per_chunk)

    def advance(self, step, learn, clock):
        """Has every environment stepped once more, and takes in the steps before; see `Actor.advance`."""
        made, episodes = 0, []
        for number, actor in enumerate(self.actors):
            ended = self._finish(number, clock)
            made, episodes = made + ended[0], episodes + ended[1]
            actor.begin(step, clock)
            if number == 0:
                learn()
        self.under_way = self.num_envs
        return made, episodes

    def finish(self, clock):
        """Waits for the environments that are being stepped, if any; see `Actor.finish`."""
        finished = [self._finish(number, clock) for number in range(len(self.actors))]
        self.under_way = 0
        return sum(made for made, _ in finished), [episode for _, episodes in finished for episode in episodes]

    def flush(self):
        """Writes the rows kept so far to the replay."""
        for actor in self.actors:
            actor.flush()

    def logs(self):
        """Returns nothing more than what every run logs."""
        return {}

    def close(self):
        """Closes the environments."""
        for actor in self.actors:
            actor.close()

    def arrays(self):
        """Returns the arrays that `restore` needs, by name."""
        prefixed = [(f"actor_{i}", actor.arrays()) for i, actor in enumerate(self.actors)]
        return {
            name.replace("actor", prefix, 1): array for prefix, arrays in prefixed for name, array in arrays.items()
        }

    def state(self):
        """Returns what `restore` needs."""
        episodes = np.concatenate([actor.environments.episodes for actor in self.actors])
        turns = [{**actor.state(), "acting": actor.choice.random.bit_generator.state} for actor in self.actors]
        return {"count": self.count.tolist(), "episodes": episodes.tolist(), "turns": turns}

    def restore(self, state, arrays):
        """Brings the environments back to where they were, or begins fresh episodes where that cannot be.

        Args:
            state: What `state` returned, here, of an `Actor` or of an `ActorPool`.
            arrays: What `arrays` returned.

        Returns:
            Whether the environments are back to where they were.
        """
        same = len(state.get("turns", ())) == len(self.actors)
        begun = state.get("environments", state)["episodes"]
        for number, actor in enumerate(self.actors):  # a writer tells the replay of every stream
            actor.count = np.array(state["count"][self._streams(number)], "int64")
        exact = []
        for number, actor in enumerate(self.actors):
            streams, prefix = self._streams(number), f"actor_{number}_"
            kept = {"count": state["count"][streams], "episodes": begun[streams]}
            if same:
                kept = {**state["turns"][number], "count": kept["count"]}
                actor.choice.random.bit_generator.state = kept["acting"]
            mine = {"actor_" + name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            exact.append(actor.restore(kept, mine))
        return all(exact)

    def _streams(self, number):
        """Returns the slice of a group's streams among all."""
        return slice(number * self.share, (number + 1) * self.share)

    def _finish(self, number, clock):
        """Finishes a group's step; its episodes get the run's numbers of their streams."""
        made, episodes = self.actors[number].finish(clock)
        first = number * self.share
        return made, [episode._replace(stream=episode.stream + first) for episode in episodes]


class _Share(Writer):
    """Writes the rows of a group, whose streams begin with number `first` of all the `turns`' streams."""

    def __init__(self, learner, first, turns):
        super().__init__(learner)
        self.first = first
        self.turns = turns

    def write(self, streams, times, steps, count, states=(), td_error=()):
        super().write(streams + self.first, times, steps, self.turns.count, states, td_error)

    def write_returns(self, stream, times, returns, count):
        super().write_returns(stream + self.first, times, returns, count)

    def cut(self, streams, count):
        super().cut(streams + self.first, self.turns.count)
