"""From the labels of a file, whatever numbers they are, to class indices."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from newton_krylov.data.catalogue import Task

MAX_CLASSES = 100
"""With `auto`, more distinct whole numbers than these are taken for a regression."""


class LabelError(ValueError):
    """Labels that do not fit the task.

    Parameters
    ----------
    problem : str
        The end of a sentence that begins with the place.
    part, sample : int
        The place: which of the parts, and which sample of it.
    """

    def __init__(self, problem: str, part: int, sample: int) -> None:
        super().__init__(problem)
        self.problem, self.part, self.sample = problem, part, sample


def encode_labels(
    parts: Sequence[NDArray[np.float64]], task: Task | Literal["auto"]
) -> tuple[list[NDArray[Any]], Task, int]:
    """Decide the task and turn labels into class indices, in the order of their values.

    So of two labels the larger becomes class 1, be they -1/+1, 0/1 or 1/2. Classes are those of
    all parts together: a class may be missing from the training samples.

    Parameters
    ----------
    parts : sequence of ndarray, shape (n,)
        Labels of the train split and of the test split if there is one.
    task : {"binary", "multiclass", "regression", "auto"}
        What they are. `auto`: binary if there are two distinct labels, multiclass if there are 3
        to `MAX_CLASSES`, all whole numbers, and a regression otherwise.

    Returns
    -------
    encoded : list of ndarray
        int64 class indices, or the labels themselves for a regression.
    task : {"binary", "multiclass", "regression"}
        As decided.
    n_classes : int
        0 for a regression.

    Raises
    ------
    LabelError
        If the labels are not of the task.
    """
    values = np.unique(np.concatenate(parts))
    if task == "auto":
        task = _decide(values)
    if task == "regression":
        return list(parts), task, 0
    _check(parts, values, task)
    return [np.searchsorted(values, y).astype(np.int64) for y in parts], task, len(values)


def _decide(values: NDArray[np.float64]) -> Task:
    if len(values) <= 2:
        return "binary"
    whole = bool((values == np.floor(values)).all())
    return "multiclass" if whole and len(values) <= MAX_CLASSES else "regression"


def _check(parts: Sequence[NDArray[np.float64]], values: NDArray[np.float64], task: Task) -> None:
    if len(values) < 2:
        raise LabelError(
            f"has the label {values[0]:g}, as every sample has; classes must be two or more "
            "(for a regression set task=regression)",
            0,
            0,
        )
    if task == "binary":
        allowed = values if len(values) == 2 else _first_two(parts)
        wanted = f"a third beside {' and '.join(f'{v:g}' for v in allowed)}; binary has two"
    else:
        allowed = values[values == np.floor(values)]
        wanted = "which is not a whole number, as the classes of a multiclass task are"
    for part, y in enumerate(parts):
        wrong = np.flatnonzero(~np.isin(y, allowed))
        if len(wrong):
            sample = int(wrong[0])
            raise LabelError(f"has the label {y[sample]:g}, {wanted}", part, sample)


def _first_two(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the two labels that a reader of the file meets first, ascending."""
    values, first = np.unique(np.concatenate(parts), return_index=True)
    return np.sort(values[np.argsort(first)[:2]])
