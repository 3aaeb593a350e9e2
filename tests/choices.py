"""What stands in the place of a `Choice` where a test chooses the actions."""


class Chosen:
    """Actions by a function `(observations [E, ...], step) -> [E]`, as of a model without memory."""

    recurrent = None
    remembers = previous = False
    memory = held = None

    def __init__(self, function):
        self.function = function
        self.after = []

    def __call__(self, observations, step):
        return self.function(observations, step)
