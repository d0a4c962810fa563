"""The Hessian's dominant eigenpair as PyHessian computes it."""

import warnings
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.low_rank_operator import Negative, describe, low_rank
from newton_krylov.errors import UnsupportedError
from newton_krylov.norms import norm
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register
from newton_krylov.spectral.lanczos import Eigenpairs


@register("hessian_approx", "rank1_pyhessian")
class Rank1PyHessian(Curvature):
    """The Hessian's dominant eigenpair, lambda v v', by PyHessian's power iteration.

    The paper's approximation (section 0.3.2). PyHessian (Yao, Gholami, Keutzer and Mahoney,
    "PyHessian: neural networks through the lens of the Hessian", 2020) iterates from a random
    vector of its own until two estimates of lambda differ by less than a part `tol`; it finds
    the eigenvalue that is largest in absolute value, which may be negative. The vector it returns
    is one step newer than its lambda, and 1e-6 / |H v| shorter than 1, so one more product gives
    lambda = v'H v, and the residual |H v - lambda v|, which is noted with it.

    PyHessian knows a module and takes all of its free parameters. It is given a module that has
    the objective's w for its only parameter, so the same works for a whole network, for one layer
    of it and for a linear model; the network itself never enters, and its mode and gradients stay
    as they were.

    Parameters
    ----------
    negative : {"absolute", "truncate", "keep"}
        What to do with a negative eigenvalue: take |lambda|, take 0, or keep it, and with it an
        indefinite matrix.
    rest : float
        The curvature assumed in all other directions, in units of |lambda|; 0 none, which takes
        damping.
    tol : float
        PyHessian's tolerance: the relative change of lambda at which it stops.
    maxiter : int
        PyHessian's limit of Hessian products.

    Raises
    ------
    UnsupportedError
        If PyHessian is not installed.
    """

    def __init__(
        self,
        negative: Negative = "absolute",
        rest: NonNegativeFloat = 0.0,
        tol: PositiveFloat = 1e-3,
        maxiter: PositiveInt = 100,
    ) -> None:
        self.negative = negative
        self.rest = rest
        self.tol = tol
        self.maxiter = maxiter
        _library()  # imported now, not in the first step's time

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the matrix of rank 1 at a point."""
        pair = top_eigenpair(point, generator, tol=self.tol, maxiter=self.maxiter)
        self.note = describe(pair)
        return low_rank(pair, self.negative, self.rest)


def top_eigenpair(
    point: Point, generator: torch.Generator, *, tol: float = 1e-3, maxiter: int = 100
) -> Eigenpairs:
    """Compute the Hessian's dominant eigenpair by PyHessian.

    Parameters
    ----------
    point : Point
        Point of any objective.
    generator : torch.Generator
        Seeds PyHessian, which draws from torch's global generator; that one's state is restored.
    tol : float
        The relative change of lambda at which it stops.
    maxiter : int
        Limit of its products.

    Returns
    -------
    Eigenpairs
        One: PyHessian's vector and its Rayleigh quotient.

    Raises
    ------
    UnsupportedError
        If PyHessian is not installed.
    """
    hessian = _library()
    module = _Parameter(point)
    nothing = torch.zeros(())
    seed = int(torch.randint(2**31, (), generator=generator))
    on_gpu = point.w.device.type == "cuda"
    devices = [point.w.device] if on_gpu else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        analysis = hessian(module, lambda loss, _: loss, (nothing, nothing), cuda=on_gpu)
        _, ((vector,),) = analysis.eigenvalues(maxIter=maxiter, tol=tol)
    module.w.grad = None  # it holds the graph, and the graph holds the parameter: a cycle
    converged = module.products < maxiter
    tiny = torch.finfo(vector.dtype).tiny  # where H = 0, PyHessian's vector is zero too
    v = vector.detach() / norm(vector.detach()).clamp_(min=tiny)
    Hv = module.product(v)
    value = torch.dot(v, Hv)
    residual = norm(Hv - value * v)
    return Eigenpairs(value[None], v[:, None], residual[None], module.products, converged)


def _library() -> Any:
    """Return PyHessian's class of a module's Hessian."""
    try:
        from pyhessian.hessian import hessian
    except ImportError as error:
        raise UnsupportedError(
            "hessian_approx=rank1_pyhessian needs PyHessian: pip install PyHessian, or take "
            "hessian_approx=rank1, which needs fewer Hessian products."
        ) from error
    return hessian


class _Parameter(torch.nn.Module):
    """A module whose only parameter is a point's w and whose output is f(w)."""

    def __init__(self, point: Point) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(point.w.detach())
        self.hessian = point.hessian()
        self.grad, self.value = point.grad, point.value
        self.products = 0

    def product(self, v: Tensor) -> Tensor:
        """Multiply by the Hessian, and count; PyHessian's first vector is float32 always."""
        self.products += 1
        return self.hessian.matvec(v.to(self.w.dtype))

    def forward(self, _: Tensor) -> Tensor:
        """Return f(w), shape ()."""
        value: Tensor = _Value.apply(self.w, self)
        return value


class _Value(torch.autograd.Function):
    """w -> f(w), with the objective's own gradient."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, module: _Parameter) -> Tensor:
        ctx.save_for_backward(w)
        ctx.module = module
        return w.new_tensor(module.value)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (w,) = ctx.saved_tensors
        return outer[0] * _Gradient.apply(w, ctx.module), None


class _Gradient(torch.autograd.Function):
    """w -> grad f(w), with the objective's own Hessian products."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, module: _Parameter) -> Tensor:
        ctx.module = module
        return module.grad.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return ctx.module.product(outer[0]), None
