"""Several tasks of a model: what is wrong is found early, and one that fails ends no other."""

import numpy as np
import pytest

from limoe_tf.evaluate import run_tasks
from limoe_tf.evaluate.tasks import Retrieval


def fails(*_):
    raise KeyError("no such\nthing")


def test_one_task_that_fails_takes_no_result_from_the_others():
    tasks = {"a": lambda x: {"b": x}, "broken": fails, "c": lambda x: {"d": 2 * x}}
    found = run_tasks.run(tasks, 3)
    assert found == {"a": {"b": 3}, "c": {"d": 6}, "failed": {"broken": "'no such\\nthing'"}}
    with pytest.raises(run_tasks.TasksFailed, match="have no results: broken: 'no such"):
        run_tasks.raise_failed(found)
    assert run_tasks.run({"a": tasks["a"]}, 1) == {"a": {"b": 1}}
    run_tasks.raise_failed({"a": {"b": 1}})


@pytest.mark.parametrize(
    "result, reason",
    [
        ({"x": float("nan")}, "Results must be finite numbers. Received: odd/x=nan"),
        ({"x": {"y": np.float32("inf")}}, "must be finite numbers. Received: odd/x/y=inf"),
        ({"x": object()}, "must hold numbers, strings and lists"),
        ({1: 2.0}, "must have strings as keys"),
    ],
)
def test_what_has_no_place_in_results_is_a_failure_of_its_task_alone(result, reason):
    found = run_tasks.run({"odd": lambda: result, "even": lambda: {"x": np.float32(0.5)}})
    assert found["even"] == {"x": 0.5} and reason in found["failed"]["odd"]


def test_what_ends_the_whole_process_ends_the_tasks():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks.run({"a": interrupt})


@pytest.mark.parametrize(
    "tasks, kind, message",
    [
        ({"a": 3}, TypeError, "`tasks` must be functions.*a=3"),
        ({"a": Retrieval}, TypeError, r"such as @tasks.Retrieval\(\). Received: a=<class"),
        ({"step": fails}, ValueError, "names other than failed.* Received: 'step'"),
        ({"a/b": fails, "a": fails}, ValueError, "stand beside each other. Received: 'a' and 'a/b"),
    ],
)
def test_what_cannot_be_a_task_is_refused(tasks, kind, message):
    with pytest.raises(kind, match=message):
        run_tasks.checked(tasks)


def test_what_a_task_finds_wrong_with_its_data_is_said_with_its_name():
    class Task:
        def check(self, model):
            raise ValueError(f"No pictures for {model}.")

    with pytest.raises(ValueError, match=r"No pictures for it. \(task 'b'\)"):
        run_tasks.check_data({"a": fails, "b": Task()}, "it")
