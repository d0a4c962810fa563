"""The zoo of problems that the tests of objectives, curvatures and optimizers share.

A new loss of a linear model joins every test by one line in `LOSSES`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.data.dataset import Dataset, Split, Table
from newton_krylov.objectives.base import Counts, Objective, Point, Ray
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.operators import LinearOperator, MatrixOperator
from newton_krylov.registry import entry

DTYPES = [torch.float32, torch.float64]


@dataclass(frozen=True)
class Loss:
    """A loss, its formula as a textbook writes it, and what is known of it.

    Attributes
    ----------
    name : str
        As registered.
    task : str
        The data it needs, as `make_dataset` takes it.
    formula : callable
        (Z, y) -> mean loss, on outputs of shape (n,) or (n, n_classes) and the data set's y;
        differentiable by autograd, with no thought of overflow.
    convex : bool
        Whether f is convex.
    smooth : bool
        Whether f is twice differentiable everywhere.
    exponential : bool
        Whether f grows exponentially, so that it is infinite not far away.
    """

    name: str
    task: str
    formula: Callable[[Tensor, Tensor], Tensor]
    convex: bool = True
    smooth: bool = True
    exponential: bool = False

    def __str__(self) -> str:
        return self.name


def _signs(y: Tensor, like: Tensor) -> Tensor:
    return (2 * y - 1).to(like.dtype)


def _logistic(Z: Tensor, y: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(-_signs(y, Z) * Z)).mean()


def _squared_hinge(Z: Tensor, y: Tensor) -> Tensor:
    return (torch.clamp(1 - _signs(y, Z) * Z, min=0) ** 2).mean()


def _least_squares(Z: Tensor, y: Tensor) -> Tensor:
    return ((Z - y) ** 2).mean() / 2


def _sigmoid_least_squares(Z: Tensor, y: Tensor) -> Tensor:
    return ((1 / (1 + torch.exp(-Z)) - y) ** 2).mean() / 2


def _multinomial(Z: Tensor, y: Tensor) -> Tensor:
    own = torch.nn.functional.one_hot(y, Z.shape[1]).to(Z.dtype)
    return (torch.log(torch.exp(Z).sum(1)) - (own * Z).sum(1)).mean()


def _poisson(Z: Tensor, y: Tensor) -> Tensor:
    return (torch.exp(Z) - y * Z + torch.xlogy(y, y) - y).mean()


def _gamma(Z: Tensor, y: Tensor) -> Tensor:
    return (y * torch.exp(-Z) + Z - torch.log(y) - 1).mean()


def _tweedie(Z: Tensor, y: Tensor) -> Tensor:
    return (-4 * y**0.5 + 2 * y * torch.exp(-Z / 2) + 2 * torch.exp(Z / 2)).mean()


def _negative_binomial(Z: Tensor, y: Tensor) -> Tensor:
    mu = torch.exp(Z)
    return (torch.xlogy(y, y) - y * Z - (y + 1) * torch.log((y + 1) / (mu + 1))).mean()


def _probit(Z: Tensor, y: Tensor) -> Tensor:
    return -torch.special.log_ndtr(_signs(y, Z) * Z).mean()


def _huber(Z: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.huber_loss(Z, y, delta=1.35)


LOSSES = [
    Loss("logistic", "binary", _logistic),
    Loss("squared_hinge", "binary", _squared_hinge, smooth=False),
    Loss("least_squares", "regression", _least_squares),
    Loss("multinomial", "multiclass", _multinomial),
    Loss("sigmoid_least_squares", "binary", _sigmoid_least_squares, convex=False),
    Loss("probit", "binary", _probit),
    Loss("huber", "regression", _huber, smooth=False),
    Loss("poisson", "counts", _poisson, exponential=True),
    Loss("gamma", "amounts", _gamma, exponential=True),
    Loss("tweedie", "counts", _tweedie, exponential=True),
    Loss("negative_binomial", "counts", _negative_binomial),
]
CONVEX_LOSSES = [loss for loss in LOSSES if loss.convex]
LIPSCHITZ_LOSSES = [loss for loss in CONVEX_LOSSES if not loss.exponential]
"""Those with a bounded curvature, from which a step size follows."""
STEEPEST_AT_ZERO = [
    loss for loss in LIPSCHITZ_LOSSES if loss.name not in ("probit", "huber", "negative_binomial")
]
BY_NAME = {loss.name: loss for loss in LOSSES}


def randn(
    *shape: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normals; the same numbers on every device and, rounded, in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)


def matrix(n: int, d: int, seed: int = 0, condition: float = 3.0) -> Tensor:
    """Draw a matrix, half of it zeros, whose columns' scales spread by `condition`."""
    X = randn(n, d, seed=seed) * (randn(n, d, seed=seed + 1) > 0)
    return X * torch.logspace(0, -torch.tensor(condition).log10(), d, dtype=X.dtype)


def make_dataset(
    task: str,
    n: int = 60,
    d: int = 7,
    *,
    X: Tensor | None = None,
    y: Tensor | None = None,
    n_classes: int = 4,
    sparse: bool = False,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    seed: int = 0,
    condition: float = 3.0,
) -> Dataset:
    """Draw a data set of a noisy linear model, not separable; or wrap the `X`, `y` given.

    Beside the tasks there are regressions of `counts`, some of them 0, and of positive `amounts`.
    """
    X = matrix(n, d, seed, condition) if X is None else X
    n, d = X.shape
    if y is None:
        y = _labels(task, X.to("cpu", torch.float64), n_classes, seed)
    X = X.to(device, dtype)
    if sparse:
        X = X.to_sparse_csr()
        X = torch.sparse_csr_tensor(
            X.crow_indices().int(), X.col_indices().int(), X.values(), size=X.shape
        )
    task = "regression" if task in ("counts", "amounts") else task
    y = y.to(device, dtype) if task == "regression" else y.to(device)
    classes = {"binary": 2, "multiclass": n_classes, "regression": 0}[task]
    return Table("zoo", Split(X, y), None, task, classes, "synthetic", _checksum(X, y))


def _checksum(*tensors: Tensor) -> str:
    """Tell data sets apart by what is in them, as what is cached of them does."""
    digest = hashlib.sha256()
    for t in tensors:
        dense = t.to_dense() if t.layout is torch.sparse_csr else t
        digest.update(f"{t.layout} {dense.shape}".encode() + dense.cpu().numpy().tobytes())
    return digest.hexdigest()


def _labels(task: str, X: Tensor, n_classes: int, seed: int) -> Tensor:
    n, d = X.shape
    if task == "multiclass":
        Z = X @ randn(d, n_classes, seed=seed + 2) + randn(n, n_classes, seed=seed + 3)
        return Z.argmax(1)
    z = X @ randn(d, seed=seed + 2) + randn(n, seed=seed + 3)
    if task in ("counts", "amounts"):
        y = torch.exp(z / 2)
        return y.floor() if task == "counts" else y
    return (z > 0).long() if task == "binary" else z


def make(loss: Loss | str, l2: float = 0.01, **data: object) -> LinearModel:
    """Bind a loss to a drawn data set (see `make_dataset`)."""
    case = BY_NAME[loss] if isinstance(loss, str) else loss
    return entry("loss", case.name).target(make_dataset(case.task, **data), l2=l2)


def plain(loss: Loss | str, f: LinearModel) -> Callable[[Tensor], Tensor]:
    """Return w -> f(w) by the textbook formula, dense and in float64, for autograd."""
    case = BY_NAME[loss] if isinstance(loss, str) else loss
    X = f.features.X.to_dense().double()
    y = f.y.double() if f.y.is_floating_point() else f.y

    def value(w: Tensor) -> Tensor:
        Z = X @ (w.reshape(X.shape[1], -1) if case.task == "multiclass" else w)
        return case.formula(Z, y) + f.l2 / 2 * (w @ w)

    return value


def ulps(dtype: torch.dtype, count: float = 2000) -> float:
    """Return a relative tolerance of that many units in the last place."""
    return count * torch.finfo(dtype).eps


def assert_close(
    actual: Tensor | float, expected: Tensor | float, rtol: float, what: str = ""
) -> None:
    """Compare norm-wise: |actual - expected| <= rtol |expected|, in float64 on the CPU."""
    a = torch.as_tensor(actual, dtype=torch.float64, device="cpu").detach()
    e = torch.as_tensor(expected, dtype=torch.float64, device="cpu").detach()
    assert a.shape == e.shape, f"{what}: shape {tuple(a.shape)}, expected {tuple(e.shape)}"
    error = torch.linalg.vector_norm(a - e)
    scale = torch.linalg.vector_norm(e)
    assert error <= rtol * scale, f"{what}: off by {error:.3e} of {scale:.3e}"


class Function(Objective):
    """Any twice differentiable function of w by autograd: saddles, quadratics, Rosenbrock's."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        dim: int,
        *,
        dtype: torch.dtype = torch.float64,
        convexity: float | None = None,
    ) -> None:
        self.function, self.dim, self.dtype, self.convexity = function, dim, dtype, convexity
        self.n_samples, self.device, self.counts = 1, torch.device("cpu"), Counts()

    def at(self, w: Tensor) -> "FunctionPoint":
        return FunctionPoint(self, w)

    def subset(self, index: Tensor) -> "Function":
        return self


class FunctionPoint(Point):
    """A point of `Function`."""

    objective: Function

    @cached_property
    def value(self) -> float:
        self.objective.counts.add(function=1)
        return float(self.objective.function(self.w))

    @cached_property
    def grad(self) -> Tensor:
        self.objective.counts.add(gradient=1)
        return torch.func.grad(self.objective.function)(self.w)

    def hessian(self) -> LinearOperator:
        return MatrixOperator(torch.func.hessian(self.objective.function)(self.w))

    def ray(self, p: Tensor) -> "FunctionRay":
        return FunctionRay(self, p)


class FunctionRay(Ray):
    """A ray of `Function`, by the defaults of `Ray`."""

    def __init__(self, origin: Point, p: Tensor) -> None:
        super().__init__(origin, p)
        self._last = (0.0, origin)

    def point(self, alpha: float) -> Point:
        if self._last[0] != alpha:
            self._last = alpha, self.origin.objective.at(self.origin.w + alpha * self.p)
        return self._last[1]


def ray_of(phi: Callable[[Tensor], Tensor]) -> FunctionRay:
    """Return the ray alpha -> phi(alpha), alpha a 0-d tensor."""
    one = torch.ones(1, dtype=torch.float64)
    return Function(lambda w: phi(w[0]), 1).at(0 * one).ray(one)


def quadratic(eigenvalues: Tensor, seed: int = 0) -> Function:
    """Return w'A w / 2 - b'w, A with those eigenvalues and random eigenvectors."""
    n = len(eigenvalues)
    Q = torch.linalg.qr(randn(n, n, seed=seed)).Q
    A, b = (Q * eigenvalues) @ Q.T, randn(n, seed=seed + 1)
    return Function(lambda w: w @ (A @ w) / 2 - b @ w, n)


def rosenbrock(w: Tensor) -> Tensor:
    """Return Rosenbrock's function of any dimension; its minimum is 0, at (1, ..., 1)."""
    return (100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2).sum()
