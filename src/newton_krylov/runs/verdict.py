"""A verdict: which problem it is of, and what is measured of it beside the runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newton_krylov.capabilities import FUNCTION, LAYERS, RESIDUALS, SUM_OF_SQUARES, TABLE
from newton_krylov.data.dataset import Dataset, ImageSet
from newton_krylov.errors import UserError
from newton_krylov.files import title_of
from newton_krylov.records.record import WEIGHTS, write_json
from newton_krylov.registry import entry, names
from newton_krylov.report.records import RunRecord
from newton_krylov.report.verdict import DIAGNOSIS, read_race
from newton_krylov.runs.config import RunConfig, check
from newton_krylov.runs.diagnosis import diagnose, read_weights
from newton_krylov.runs.experiment import dataset_of, intercept_of, objective_of, start_of

_PORTFOLIOS = {LAYERS: "network", SUM_OF_SQUARES: "residual", FUNCTION: "function"}
"""What a loss offers to the portfolio that fits; a linear model's losses offer none of these."""

_LEAST_SECONDS = 30.0
"""What measuring a problem may take in any case."""

_LOSSES = {"binary": "logistic", "multiclass": "multinomial", "regression": "least_squares"}


@dataclass(frozen=True)
class Question:
    """What a verdict is asked about.

    Attributes
    ----------
    dataset : str
        Name of the data set, or of its file.
    loss : str
        Name of a loss that fits the data, where the one of the configuration was not chosen by
        the user.
    portfolio : str
        The name of the portfolio that fits, as in `verdict=NAME`.
    intercept : str or None
        What there is to say of a linear model's intercept.
    """

    dataset: str
    loss: str
    portfolio: str
    intercept: str | None = None


def question_of(plain: Mapping[str, Any], *, loss_chosen: bool) -> Question:
    """Look at a configuration and its data.

    Parameters
    ----------
    plain : mapping
        Composed; its `verdict` node does not count.
    loss_chosen : bool
        Whether the user chose the loss; if not, one that fits the data takes its place.

    Returns
    -------
    Question
        What is asked.

    Raises
    ------
    UserError
        For a mistake in the configuration or the data.
    """
    model = plain.get("model")
    own_model = isinstance(model, Mapping) and model.get("name") not in (None, "auto")
    residual = _is_residual(plain.get("dataset"))
    if not loss_chosen and (residual or own_model):
        plain = {**plain, "loss": {"name": "residual" if residual else "cross_entropy"}}
    config = check(plain)
    loss = config.name_of("loss")
    if not loss_chosen and not residual:
        loss = _fitting_loss(dataset_of(config), loss, network=own_model)
        config = check({**plain, "loss": {"name": loss}})
    dataset = dataset_of(config)  # a mistake in it is found here, once, and not by every run
    _try(config, dataset)
    options = config.options_of("dataset")
    path = options.get("path")
    name = title_of(path, options.get("target")) if path else config.name_of("dataset")
    offered = config.entry_of("loss").offers or ()
    fitting = (portfolio for word, portfolio in _PORTFOLIOS.items() if word in offered)
    return Question(name, loss, next(fitting, "linear"), intercept_of(config, dataset))


def _try(config: RunConfig, dataset: Dataset) -> None:
    """Find a loss that does not fit once, too: a network is given samples, a function its start."""
    loss = config.entry_of("loss")
    what = f"loss={loss.name} cannot be evaluated"
    try:
        if "model" in loss.parts:
            what = "The network does not take the samples as they are"
        objective = objective_of(config, dataset)
        if FUNCTION in (loss.offers or ()):
            what = "The function cannot be differentiated at its start"
            _ = objective.at(start_of(config, objective)).grad
    except UserError:
        raise
    except Exception as error:  # of the user's module or function, of any kind
        text = " ".join(str(error).split())
        raise UserError(f"{what}: {type(error).__name__}: {text}") from error


def _is_residual(node: Any) -> bool:
    """Say whether a data set poses residuals and nothing else."""
    name = node.get("name") if isinstance(node, Mapping) else None
    if name not in names("dataset"):
        return False
    offers = entry("dataset", name).offers or ()
    return RESIDUALS in offers and TABLE not in offers


def _fitting_loss(dataset: Dataset, given: str, *, network: bool) -> str:
    task = str(dataset.facts().get("task"))
    if network or isinstance(dataset, ImageSet):
        return "mse" if task == "regression" else "cross_entropy"
    return _LOSSES.get(task, given)


def measure(folder: Path, share: float) -> None:
    """Measure the problem of a race, from the best run, and keep the figures with the race.

    Parameters
    ----------
    folder : Path
        The race's; gets `diagnosis.json`. Nothing is done where no run left weights.
    share : float
        Of the time that all runs took, what measuring may take, but half a minute in any case.
    """
    race = read_race(folder)
    runs = [record for c in race.contestants for record in c.runs]
    tried = [record for c in race.contestants for _, record in c.tuning]
    took = sum(record.summary.get("wall_seconds") or 0.0 for record in (*runs, *tried))
    ended = [record for record in runs if record.rows and (record.folder / WEIGHTS).exists()]
    if not ended:
        return
    best = min(ended, key=_last_loss)
    config = check(best.config)
    dataset = dataset_of(config)
    objective = objective_of(config, dataset)
    start = start_of(config, objective)
    end = read_weights(best.folder / WEIGHTS, like=start)
    seconds = max(_LEAST_SECONDS, share * took)
    write_json(folder / DIAGNOSIS, diagnose(objective, dataset, start, end, seconds))


def _last_loss(record: RunRecord) -> float:
    loss = record.rows[-1].loss
    return loss if math.isfinite(loss) else math.inf
