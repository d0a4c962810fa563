"""What residuals and Levenberg-Marquardt's steps cost: `python benchmarks/residuals.py`.

Residuals with second derivatives beside nested automatic differentiation, as multiples of the
network's forward pass; a step beside forming J once. In processor time on one thread, the least of
up to 25 rounds in each of which everything is called in turn.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.func import grad, jvp

from newton_krylov.data import load_dataset
from newton_krylov.data.equation import derivatives
from newton_krylov.linear_solvers.exact import exact
from newton_krylov.models import Interface, initialized
from newton_krylov.models.mlp import mlp
from newton_krylov.objectives.residual.jacobian import Jacobian
from newton_krylov.objectives.residual.loss import ResidualLoss
from newton_krylov.optimizers.levenberg_marquardt import LevenbergMarquardtStep

PROBLEMS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "poisson_2d": ((64,), {}),
    "poisson_5d": ((64,), {}),
    "reaction": ((40, 40, 40), {"points": 500, "start": 65, "boundary": 51}),
    "wave": ((40, 40, 40), {"points": 500, "start": 65, "boundary": 51}),
}
ROUNDS, BUDGET = 25, 20.0


def milliseconds(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Return the least processor time of each of some calls, made in turn, round after round."""
    least = [math.inf] * len(calls)
    began = time.process_time()
    for number in range(ROUNDS + 1):
        for k, call in enumerate(calls):
            start = time.process_time()
            call()
            if number:  # the first round warms up
                least[k] = min(least[k], time.process_time() - start)
        if number and time.process_time() - began > BUDGET:
            break
    return [1e3 * seconds for seconds in least]


def problem(name: str) -> ResidualLoss:
    """Return the loss of an equation and a network of its first weights."""
    hidden, options = PROBLEMS[name]
    data = load_dataset(name, options)
    generator = torch.Generator().manual_seed(0)
    module = initialized(lambda i: mlp(i, hidden=hidden), Interface.of(data), generator)
    return ResidualLoss(data, module.double())


def row(name: str) -> str:
    """Return a line of the table."""
    f = problem(name)
    w = f.initial()
    v = torch.ones_like(w)
    blocks = f._posing  # the benchmark compares what is inside
    x = torch.cat([block.points.flatten(0, 1) for block in blocks])

    def nested(w: torch.Tensor) -> torch.Tensor:
        u = lambda z: f.outputs(w, z)[:, 0]  # noqa: E731
        parts = [b.weight**0.5 * b.residual(derivatives(u, b)) for b in blocks]
        return torch.cat(parts)

    point = f.at(w)
    J = point.jacobian
    theirs = Jacobian(nested, w, f.memory)
    H = point.hessian()

    def half_square(w: torch.Tensor) -> torch.Tensor:
        return f.residuals(w).square().sum() / 2

    numbers = milliseconds(
        [
            lambda: _quietly(lambda: f.outputs(w, x)),
            lambda: _quietly(lambda: f.residuals(w)),
            lambda: nested(w),
            lambda: _dense(f, w),
            lambda: J.rmatvec(J.matvec(v)),
            lambda: theirs.rmatvec(theirs.matvec(v)),
            lambda: H @ v,
            lambda: jvp(grad(half_square), (w,), (v,)),
            lambda: f.at(w).normal.gram,
            _step(f, w, acceleration=False),
            _step(f, w, acceleration=True),
        ]
    )
    texts = " | ".join(f"{number:.3g}" for number in numbers)
    ratio = numbers[-2] / numbers[3]
    return f"| `{name}`, P = {f.dim:,}, N = {f.n_residuals:,} | {texts} | {ratio:.2g} |"


def _quietly(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return call()


def _dense(f: ResidualLoss, w: torch.Tensor) -> torch.Tensor:
    J, _ = f.linearized(w)
    return J.dense()


def _step(f: ResidualLoss, w: torch.Tensor, acceleration: bool) -> Callable[[], Any]:
    """Return a trial with all that it needs, from J to the residuals where it leads.

    The first step, which looks at the diagonal of J'J once to choose the damping, is left out.
    """
    step = LevenbergMarquardtStep(exact, acceleration=acceleration)
    return lambda: next(step.trials(f.at(w), rtol=1e-2))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(
        "| ms | forward | residuals | nested | J | J'Jv | nested | Hv | forward over reverse "
        "| J'J or JJ', from w | step | with acceleration | step / J |"
    )
    print("| --- |" + " --- |" * 12)
    for name in PROBLEMS:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
