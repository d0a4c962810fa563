"""`verdict` asks of a program's own problem whether a second-order method would help."""

import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from newton_krylov.calls.commands import carry_out_sweep, heard, run_one
from newton_krylov.calls.given import array, named, registered_model
from newton_krylov.calls.results import Verdict
from newton_krylov.calls.words import overrides_of
from newton_krylov.cli.session import compose_members, compose_verdict
from newton_krylov.errors import ConfigError
from newton_krylov.objectives.function import Scalar

Words = dict[str, Any]


def verdict(
    objective: str | nn.Module | Scalar | None = None,
    data: Any = None,
    *,
    seconds: float | None = None,
    **words: Any,
) -> Verdict:
    """Tune and race methods under equal budgets, and say whether a second-order method helps.

    What `experiment=verdict` does, for a problem of the program's own: see the page on the verdict.

    Parameters
    ----------
    objective : str, nn.Module or callable, optional
        A loss by name (`"logistic"`), a module, or a torch function of one vector, w to f(w); by
        default a linear model's loss that fits the data.
    data : str, DataFrame, (array, array), or array of shape (n,), optional
        A data set by name, a data frame with `dataset={"target": ...}`, samples and targets, or
        the start of a function. A module gets samples of the shape that they have here, not scaled.
    seconds : float, optional
        The optimizer's time that each run has; by default the configuration's 5.
    **words
        As in `run`: `verdict={"trials": 3, "seeds": 2}`, `loss="mse"` or a criterion for a module,
        `name`, `tracking`, ...

    Returns
    -------
    Verdict
        Its `answer`, `paragraph`, `table`, `reasons`, `figure()`; a notebook shows it, and `print`
        prints it.

    Raises
    ------
    ConfigError
        For the first wrong word, in one sentence, before anything runs.
    UserError
        For data that cannot be used.
    KeyboardInterrupt
        If it was interrupted; `resume=True` goes on with it.
    """
    if data is None and not {"dataset", "experiment"} & words.keys():
        raise ConfigError(
            "verdict() needs data: a data set's name, a data frame, (X, y), or a function's start."
        )
    if isinstance(objective, type):
        name = objective.__name__
        raise ConfigError(f"objective is the class {name}: give an instance, as {name}(...).")
    words = {"experiment": "verdict", **words}
    if seconds is not None:
        words["stop.seconds"] = seconds
    if isinstance(objective, str):
        words["loss"] = objective
    elif isinstance(objective, nn.Module):
        words |= _for_module(objective, data, words.get("dataset"))
        data = None
    elif callable(objective):
        words["loss"] = objective
    elif objective is not None:
        raise ConfigError(
            f"objective is a {type(objective).__name__}: give the name of a loss, a module, or a "
            f"function of one vector."
        )
    if data is not None:
        words["dataset"] = _with_data(words.get("dataset"), data)
    with heard(words):
        shared, command = compose_verdict(overrides_of(named(words)), _run_of)
        carry_out_sweep(shared, command.judge)
    return Verdict(shared.folder)


def _run_of(overrides: list[str]) -> None:
    """Run what some overrides compose, in the folder of their sweep."""
    for member in compose_members(overrides):
        run_one(member, member.folder.parent)


def _with_data(node: Any, data: Any) -> Any:
    """Join data with the further keys of their group."""
    if node is None:
        return data
    if isinstance(node, dict) and "name" not in node:
        return {"name": data, **node} if isinstance(data, str) else {"data": data, **node}
    raise ConfigError("The data are given twice: by position and by dataset.")


def _for_module(module: nn.Module, data: Any, node: Any) -> Words:
    """Return the words for a module and its samples, which are kept flat and taken as they are."""
    if isinstance(data, list | np.ndarray | Tensor):
        raise ConfigError(
            "A module needs targets beside its samples: give data=(X, y), a data frame with "
            "dataset={'target': ...}, or a data set's name."
        )
    if not isinstance(data, tuple):
        return {"model": module, "dataset": _with_data(node, data)}
    if isinstance(data[0], tuple | dict):
        raise ConfigError(
            "A module is given one array of samples here, X of shape (n, ...): join several to "
            "one, and wrap the module in one that takes them apart."
        )
    X = array(data[0], "X")
    shape = X.shape[1:] if X.ndim > 2 else None
    raw = {"scaling": "none", "bias": False}
    return {
        "model": registered_model(module, shape),
        "dataset": _with_data(
            {**raw, **(node or {})}, (X.reshape(len(X), math.prod(X.shape[1:])), data[1])
        ),
    }
