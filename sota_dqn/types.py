"""The records that pass between files, with the shape of every field.

`B` batch, `T` time, `A` actions, `E` streams (one stream per environment), `*O` one observation. The fields are arrays
or tensors of whichever side is speaking: NumPy on the host, the backend's tensors inside a compiled program.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Steps(NamedTuple):
    """What the environments said, row by row in the order in which they said it.

    A row is an observation, the action taken there, and what came of it. The observation that follows a row is the next
    row's. The row after the last step of an episode holds the final observation: it has no action of its own, so
    `valid` is 0 there, and nothing that starts before it reaches beyond it. A time limit needs no flag of its own.
    """

    observation: Any  # [..., *O], the dtype that preprocessing returns
    action: Any  # [...] int32, counted from 0
    reward: Any  # [...] float32, what arrived after the action
    terminated: Any  # [...] 1 where the value of what follows is zero
    valid: Any  # [...] 0 on the final observation of an episode


class Sample(NamedTuple):
    """A batch of windows of rows, each around one row drawn by the sampler."""

    rows: Any  # [B] int32, where the drawn rows are stored
    weights: Any  # [B] float32, importance weights, at most 1
    window: Steps  # [B, T, ...], from the drawn row on
    past: Steps | None  # [B, P, ...], the P rows before it, oldest first; None where no past was asked for
    connected: Any  # [B, P] float32, 1 where that past row belongs to the drawn row's episode; None without a past
    return_to_go: Any  # [B] float32, -inf where the episode has not terminated; None where it is not stored


class NextState(NamedTuple):
    """What a target may look at: the state in which an n-step return bootstraps."""

    values: Any  # [B, A] the model's action values
    target_values: Any  # [B, A] the target model's action values
    step: Any  # [] float32, environment steps made so far, for schedules


class Compiled(NamedTuple):
    """A compiled function, and how often it has been compiled so far."""

    call: Callable
    compilations: Callable[[], int]

    def __call__(self, *arguments):
        return self.call(*arguments)


def recorded(factory):
    """Makes `factory`'s results remember how they were made, so that a checkpoint can name them.

    Args:
        factory: A class, or a function that returns a function.

    Returns:
        The factory. What it makes has the attribute `recipe`: the factory and the arguments that it was called with.
    """
    signature = inspect.signature(factory)

    def arguments(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    if isinstance(factory, type):
        initialize: Any = factory.__init__  # type: ignore[misc]

        @functools.wraps(initialize)
        def remember(self, *args, **kwargs):
            initialize(self, *args, **kwargs)  # first: its error names the class
            self.recipe = (factory, arguments(*args, **kwargs))

        factory.__init__ = remember  # type: ignore[misc]
        return factory

    @functools.wraps(factory)
    def make(*args, **kwargs):
        made = factory(*args, **kwargs)
        made.recipe = (make, arguments(*args, **kwargs))
        return made

    return make
