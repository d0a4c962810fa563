"""SciPy's optimizers, live through their callback."""

import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.errors import ConfigError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import Optimizer, Step, Steps, evaluate
from newton_krylov.optimizers.peers.library import BREAKDOWNS, Conditions, load, resumable
from newton_krylov.registry import register

_UNLIMITED = sys.maxsize  # iterations and evaluations: the runner's criteria end a run

Vector = NDArray[np.float64]


class NumpyFunction:
    """An objective as SciPy sees it: value, gradient and Hessian products of NumPy vectors.

    On the CPU in float64 nothing but w is copied. The last two points are kept: value, gradient
    and Hessian at one w share its products with the data, and a trust region method that refuses
    a step continues from the point before.

    Parameters
    ----------
    objective : Objective
        What to evaluate.

    Attributes
    ----------
    products : int
        Products with the Hessian so far.
    """

    def __init__(self, objective: Objective) -> None:
        self.products = 0
        self._objective = objective
        self._recent: list[tuple[Vector, Point]] = []
        self._hessian: tuple[Point, LinearOperator] | None = None

    def at(self, x: Vector) -> Point:
        """Return the point x, shape (dim,)."""
        for known, point in self._recent:
            if np.array_equal(known, x):
                return point
        own = x.copy()  # SciPy changes its iterate in place
        point = self._objective.at(self._tensor(own))
        self._recent = [(own, point), *self._recent[:1]]
        return point

    def value(self, x: Vector) -> float:
        """Return f(x)."""
        return self.at(x).value

    def grad(self, x: Vector) -> Vector:
        """Return the gradient at x, shape (dim,)."""
        return _array(self.at(x).grad)

    def hessp(self, x: Vector, v: Vector) -> Vector:
        """Return the Hessian at x times v, shape (dim,)."""
        point = self.at(x)
        if self._hessian is None or self._hessian[0] is not point:
            self._hessian = (point, point.hessian())
        self.products += 1
        return _array(self._hessian[1].matvec(self._tensor(v)))

    def _tensor(self, x: Vector) -> Tensor:
        return torch.from_numpy(x).to(self._objective.device, self._objective.dtype)


def _array(t: Tensor) -> Vector:
    return t.to("cpu", torch.float64).numpy()


class ScipyPeer(Optimizer):
    """A method of `scipy.optimize.minimize`.

    Every row is one iteration of SciPy's (of a trust region method a refused step too), its
    seconds are those between two callbacks, and its inner iterations the products with the
    Hessian. SciPy's own tolerances are zero unless set, so that the run's criteria decide, or
    else the rounding at which the method gives up.
    """

    method: str
    second_order = True

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return what SciPy calls the method's options."""

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends where SciPy does."""
        load("scipy.optimize")  # before its BLAS is looked for
        conditions = Conditions(one_blas_thread=True)
        function, x0 = NumpyFunction(objective), _array(w0)
        start = time.perf_counter()
        point = evaluate(function.at(x0))
        seconds = time.perf_counter() - start
        yield Step(point, seconds=seconds, notes=("live, through SciPy's callback",))
        return (yield from resumable(partial(self._minimize, function, x0), conditions))

    def _minimize(self, function: NumpyFunction, x0: Vector, emit: Callable[[Step], Any]) -> str:
        last, products = function.at(x0), 0

        def callback(intermediate_result: Any) -> None:
            nonlocal last, products
            point = evaluate(function.at(intermediate_result.x))
            notes = ("step refused",) if point is last else ()
            inner, last, products = function.products - products, point, function.products
            emit(Step(point, inner_iterations=inner, notes=notes))

        try:
            result = load("scipy.optimize").minimize(
                function.value,
                x0,
                method=self.method,
                jac=function.grad,
                hessp=function.hessp if self.second_order else None,
                callback=callback,
                options=self.options(),
            )
        except BREAKDOWNS as error:
            return f"SciPy's {self.method} failed: {error}"
        return f"SciPy's {self.method}: {result.message}"


@register("optimizer", "scipy_newton_cg")
class ScipyNewtonCG(ScipyPeer):
    """SciPy's Newton-CG: forcing term min(0.5, sqrt|g|_1), strong Wolfe line search.

    Parameters
    ----------
    xtol : float
        Ends where a step's mean absolute change of the parameters is at most this.
    """

    method = "Newton-CG"

    def __init__(self, xtol: NonNegativeFloat = 0.0) -> None:
        self.xtol = xtol

    def options(self) -> dict[str, Any]:
        """Return what SciPy calls the method's options."""
        return {"xtol": self.xtol, "maxiter": _UNLIMITED}


class ScipyTrustRegion(ScipyPeer):
    """What SciPy's trust region methods share.

    Parameters
    ----------
    gtol : float
        Ends where the gradient norm is below this.
    initial_trust_radius, max_trust_radius : float
        Radii in the step's Euclidean norm.
    eta : float
        A step is taken if the loss falls by more than this share of what the model predicts.

    Raises
    ------
    ConfigError
        If the first radius is not below the largest.
    """

    def __init__(
        self,
        gtol: NonNegativeFloat = 0.0,
        initial_trust_radius: PositiveFloat = 1.0,
        max_trust_radius: PositiveFloat = 1000.0,
        eta: Annotated[float, Field(ge=0, lt=0.25)] = 0.15,
    ) -> None:
        if initial_trust_radius >= max_trust_radius:
            raise ConfigError(
                f"optimizer.initial_trust_radius={initial_trust_radius:g} must be below "
                f"optimizer.max_trust_radius={max_trust_radius:g}"
            )
        self.gtol = gtol
        self.initial_trust_radius = initial_trust_radius
        self.max_trust_radius = max_trust_radius
        self.eta = eta

    def options(self) -> dict[str, Any]:
        """Return what SciPy calls the method's options."""
        return {**vars(self), "maxiter": _UNLIMITED}


@register("optimizer", "scipy_trust_ncg")
class ScipyTrustNCG(ScipyTrustRegion):
    """SciPy's trust-ncg: a trust region method with CG by Steihaug's rule."""

    method = "trust-ncg"


@register("optimizer", "scipy_trust_krylov")
class ScipyTrustKrylov(ScipyTrustRegion):
    """SciPy's trust-krylov: a trust region method with the Lanczos method GLTR.

    Near the optimum its subproblem may be too small for it to solve; the run then ends and says
    so.
    """

    method = "trust-krylov"


@register("optimizer", "scipy_lbfgsb")
class ScipyLBFGSB(ScipyPeer):
    """SciPy's L-BFGS-B, without bounds.

    Parameters
    ----------
    memory : int
        Pairs kept.
    ftol : float
        Ends where the loss falls by at most this, relative to the loss (or to 1).
    gtol : float
        Ends where the gradient's largest entry is at most this.
    """

    method = "L-BFGS-B"
    second_order = False

    def __init__(
        self,
        memory: PositiveInt = 10,
        ftol: NonNegativeFloat = 0.0,
        gtol: NonNegativeFloat = 0.0,
    ) -> None:
        self.memory = memory
        self.ftol = ftol
        self.gtol = gtol

    def options(self) -> dict[str, Any]:
        """Return what SciPy calls the method's options."""
        return {
            "maxcor": self.memory,
            "ftol": self.ftol,
            "gtol": self.gtol,
            "maxiter": _UNLIMITED,
            "maxfun": _UNLIMITED,
        }
