"""What a model learns and how it is scored, one task a file: classification and segmentation.

    task = task_named("segmentation").from_cache(cache)
    model = task.build_model(encoder, seed=0)
    masks = task.predict(model, cache, scans, size=(32, 32, 32))
    cases, metrics = task.score(cache, scans, masks)

A task of another kind (regression, detection) is one more file here, named in TASKS.
"""

from __future__ import annotations

from medssl.core.errors import MedsslError, nearest
from medssl.training.tasks.base import Task, TaskName
from medssl.training.tasks.classification import Classification
from medssl.training.tasks.segmentation import Segmentation

__all__ = ["TASKS", "Classification", "Segmentation", "Task", "TaskName", "task_named"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Segmentation)}


def task_named(name: str) -> type[Task]:
    """The class of a task. Raises MedsslError, with the nearest names, where there is none of that name.

    >>> task_named("segmentation").metric.name
    'dice'
    """
    if name not in TASKS:
        raise MedsslError(f"there is no task {name!r}: expected one of {', '.join(TASKS)}{nearest(name, TASKS)}")
    return TASKS[name]
