"""A start on some of the samples."""

import math
from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.capabilities import LINEAR_MODEL
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.optimizers.base import Step
from newton_krylov.optimizers.lbfgs import LBFGS
from newton_krylov.optimizers.line_search import FIRST_STEP, armijo

Start = Literal["none", "sample", "auto"]

_SHARE = 16
_LEAST = 500
_ACCURACY = 0.1
_MOST_STEPS = 50
_PAIRS = 10


def from_a_sample(
    start: Start, objective: Objective, w0: Tensor, generator: torch.Generator, *, begun: bool
) -> Generator[Step, None, tuple[Tensor, tuple[str, ...]]]:
    """Begin on a sample, where that is to be done.

    Parameters
    ----------
    start : {"none", "sample", "auto"}
        See `begins_on_a_sample`.
    objective : Objective
        What to minimize.
    w0 : Tensor, shape (dim,)
        The start.
    generator : torch.Generator
        The run's source of randomness.
    begun : bool
        Whether that is over already, in a continued run.

    Yields
    ------
    Step
        The start, where the method goes on from another point.

    Returns
    -------
    tuple of (Tensor, tuple of str)
        Where to go on from, shape (dim,), and what to say of the first step from there.
    """
    if begun or not begins_on_a_sample(start, objective):
        return w0, ()
    yield Step(objective.at(w0), needed=False)
    w0, note = on_a_sample(objective, w0, generator)
    return w0, (note,)


def begins_on_a_sample(start: Start, objective: Objective) -> bool:
    """Return whether Newton's method is to begin on a sample.

    Parameters
    ----------
    start : {"none", "sample", "auto"}
        `auto` where the loss is convex and of a linear model, and a sixteenth of the samples is
        `_LEAST` at least.
    objective : Objective
        What to minimize.

    Returns
    -------
    bool
        Whether to call `on_a_sample`.

    Raises
    ------
    UnsupportedError
        If a sample is asked for, and the objective is not of a linear model.
    """
    if start == "none":
        return False
    linear = isinstance(objective, LinearModel) and LINEAR_MODEL in objective.offers
    if start == "sample" and not linear:
        raise UnsupportedError(
            "optimizer.start=sample needs the loss of a linear model in one process; "
            "set optimizer.start=none."
        )
    convex = objective.convexity is not None
    return start == "sample" or (linear and convex and objective.n_samples >= _SHARE * _LEAST)


def on_a_sample(objective: Objective, w0: Tensor, generator: torch.Generator) -> tuple[Tensor, str]:
    """Minimize over a sixteenth of the samples, about as far as these say anything of all.

    Every sixteenth is taken, from a random one on, which costs less than drawing them does.
    At the minimum over m samples the gradient of all is off by the size of a sample's gradient
    divided by sqrt(m), so a tenth of that is enough. Directions of which m samples say nothing,
    those whose curvature is below the trace of the Hessian over m, are held back by an L2 term of
    that size, where the objective's own is smaller.

    Steps are those of L-BFGS, without torch where the loss has a compiled loop.

    Parameters
    ----------
    objective : LinearModel
        What to minimize in the end; evaluations on the sample count by their share.
    w0 : Tensor, shape (dim,)
        The start.
    generator : torch.Generator
        The run's source of randomness, which draws the sample.

    Returns
    -------
    tuple of Tensor and str
        Where it came to, and what was done, in words.
    """
    assert isinstance(objective, LinearModel)
    first = int(torch.randint(min(_SHARE, objective.n_samples), (), generator=generator))
    part = objective.every(_SHARE, first)
    start = part.at(w0)
    size = part.n_samples
    _ = start.value  # with all else that is known after one reading
    tolerance = _ACCURACY * part.sample_gradient_size(start) / math.sqrt(size)
    trace = part.loss_curvature(start)
    if trace is not None:
        part = part.with_l2(max(part.l2, trace / size))
    w, taken = _descended(part, w0, tolerance, generator)
    return w, f"{taken} steps on {size:,} samples"


def _descended(
    part: LinearModel, w0: Tensor, tolerance: float, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Minimize by L-BFGS until the gradient's norm is at most the tolerance."""
    found = part.descend(
        w0, tolerance=tolerance, steps=_MOST_STEPS, memory=_PAIRS, first_step=FIRST_STEP
    )
    if found is not None:
        return found
    w, taken = w0, -1
    for step in LBFGS(armijo, _PAIRS).steps(part, w0, generator):
        w, taken = step.point.w, taken + 1
        if step.point.grad_norm <= tolerance or taken == _MOST_STEPS:
            break
    return w, taken
