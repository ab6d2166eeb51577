"""Counting the optimizer's steps in a Keras callback, where one call may run several of them."""


class StepCount:
    """The step at which training is, and how many steps the last call ran.

    Made when an epoch begins: not before, since until then a checkpoint may be restored.

    Args:
      model: compiled Keras model.

    Attributes:
      step: updates of the optimizer so far, over all epochs and restarts.
      in_call: how many of them the last call ran.
    """

    def __init__(self, model):
        self._model = model
        self.step, self.in_call = updates(model), 0

    def advance(self):
        """To be called once at the end of each call."""
        # Not from Keras' number of the batch, which is too high where an epoch ends within a call.
        before, self.step = self.step, updates(self._model)
        self.in_call = self.step - before

    def passes(self, every_steps):
        """Returns whether the last call ran a step whose number is a multiple of `every_steps`."""
        return self.step // every_steps > (self.step - self.in_call) // every_steps


def was_skipped(logs):
    """Returns whether the last step changed nothing, see `guard`; without such a log, False."""
    return bool(logs and logs.get("skipped"))


def updates(model):
    """Returns how often the model's optimizer has updated it."""
    return int(model.optimizer.iterations.numpy())
