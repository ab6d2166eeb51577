"""Counting the optimizer's steps in a Keras callback, where one call may run several of them."""

from collections.abc import Mapping
from typing import Any

import keras


class StepCount:
    """The current step, and how many steps the last call of the train function ran.

    To be created when an epoch begins: before, a checkpoint may still be restored.

    Args:
      model: compiled Keras model.

    Attributes:
      step: updates of the optimizer so far, over all epochs and restarts.
      in_call: how many of them the last call ran.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self.step, self.in_call = updates(model), 0

    def advance(self) -> None:
        """Must be called once at the end of each call."""
        # Not from Keras' number of the batch, which is too high where an epoch ends within a call.
        before, self.step = self.step, updates(self._model)
        self.in_call = self.step - before

    def passes(self, every_steps: int) -> bool:
        """Returns whether the last call ran a step whose number is a multiple of `every_steps`."""
        return self.step // every_steps > (self.step - self.in_call) // every_steps


def was_skipped(logs: Mapping[str, Any] | None) -> bool:
    """Returns whether the last step was skipped, see `guard`; False if there is no such log."""
    return bool(logs and logs.get("skipped"))


def with_experts(model: keras.Model, logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the logs of a step with those that the model keeps per expert, if it has any."""
    return {**(logs or {}), **getattr(model, "per_expert", {})}


def updates(model: keras.Model) -> int:
    """Returns the number of steps of the model's optimizer."""
    return int(model.optimizer.iterations.numpy())
