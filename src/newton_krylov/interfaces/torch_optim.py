"""Newton-Krylov as a `torch.optim.Optimizer`, for an ordinary PyTorch training loop."""

import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from newton_krylov.curvature.ggn import GaussNewton
from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.errors import ConfigError
from newton_krylov.interfaces.closure import Closure, FixedClosure
from newton_krylov.interfaces.closure_loss import ClosureLoss, Weights
from newton_krylov.interfaces.parts import named
from newton_krylov.linear_solvers.result import LinearSolver
from newton_krylov.operators import FunctionOperator, LinearOperator, add_diagonal
from newton_krylov.optimizers.base import Step
from newton_krylov.optimizers.damping import Damping, Fixed, Marquardt, Trial
from newton_krylov.optimizers.forcing import Forcing
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.newton_step import NegativeCurvature, NewtonStep
from newton_krylov.optimizers.stochastic_step import StochasticStep
from newton_krylov.preconditioners.none import NoPreconditioner

DampingRule = Literal["fixed", "marquardt"]
CurvatureName = Literal["hessian", "gauss_newton"]

_CURVATURES = {"hessian": HessianProduct, "gauss_newton": GaussNewton}


class NewtonKrylov(torch.optim.Optimizer):
    """Newton's method with a Krylov solver: (H + tau I) p = -g, then a line search along p.

    H is the exact Hessian of the closure's loss, by double backward over one graph; directions of
    negative curvature that the solver meets are followed; tau adapts by Marquardt's rule.
    A step on a mini-batch costs one forward and backward pass, as many more
    backward passes as the solver takes iterations, and a forward pass for each trial of the line
    search.

    The closure returns the loss; it may also call `zero_grad` and `backward`, as those of
    `torch.optim.LBFGS` do (the call is caught: the graph is needed), on the loss itself or on parts
    whose sum it returns, detached or not; the graphs of all parts are held for the step. It is
    evaluated several times in a step and must be one function of the weights: the batch is chosen
    outside of it. Dropout and buffers are fixed for the length of a step, by resetting torch's
    random state and the modules' buffers before each evaluation, and go on from step to step as if
    it had been one: batch norm's running averages move once. The first step checks that nothing
    else changes.

    Parameters may be frozen, unfrozen and added (`add_param_group`) between steps.

    After a step, `.grad` holds the gradient where the step began.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Parameters of one floating-point type, float32 or float64, on one device. Groups may differ
        by `lr` and `damping`; one system is solved for all.
    lr : float
        Factor of the step's length, before the line search; for PyTorch's schedulers.
    solver : str or callable
        `"cg"`, `"cr"`, `"gcr"`, `"gmres"`, `"minres"`, `"minres_qlp"`, `"exact"` (forms the
        matrix), or a function like them, such as `functools.partial(gmres, restart=10)`.
    max_iterations : int
        Limit of the solver's iterations in a step.
    curvature : {"hessian", "gauss_newton"}
        With `gauss_newton`, H is J'LJ, positive semidefinite for a convex loss of the outputs, and
        the closure returns `(loss, outputs)`: L is the loss's Hessian by the outputs, so what the
        loss depends on otherwise (a penalty on the weights) is in the gradient alone.
    damping : float
        tau; with an adaptive rule its first value.
    damping_rule : {"marquardt", "fixed"}
        Names of the pipeline's `damping`. With the first, a step that does not lower the batch's
        loss is refused and tau grows.
    damping_factor : float
        By how much tau moves, above 1.
    damping_min : float
        tau stays at or above it.
    negative_curvature : {"follow", "truncate", "ignore"}
        What to do with a direction of negative curvature: see
        `optimizers.newton_step.NewtonStep`. gmres and gcr do not look for any, and may lead to a
        saddle point unless tau is large enough.
    line_search : str or callable
        `"armijo"`, `"strong_wolfe"`, `"none"`, or a function like them.
    forcing : str or callable
        How exactly to solve: `"superlinear"`, `"eisenstat_walker"`, `"fixed"`, or a function.

    Examples
    --------
    >>> import torch
    >>> from newton_krylov import NewtonKrylov
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> X = torch.randn(64, 2)
    >>> y = X.prod(dim=1, keepdim=True)
    >>> optimizer = NewtonKrylov(model.parameters(), solver="cr")
    >>> for _ in range(100):
    ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(X), y))
    >>> bool(loss < 1e-3)
    True
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.0,
        *,
        solver: str | LinearSolver = "cg",
        max_iterations: int = 50,
        curvature: CurvatureName = "hessian",
        damping: float = 1.0,
        damping_rule: DampingRule = "marquardt",
        damping_factor: float = 2.0,
        damping_min: float = 0.0,
        negative_curvature: NegativeCurvature = "follow",
        line_search: str | LineSearch = "armijo",
        forcing: str | Forcing = "superlinear",
    ) -> None:
        super().__init__(params, {"lr": lr, "damping": damping})
        Weights.of(self)  # refuses parameters that make no one vector
        options: dict[str, Any] = {"maxiter": max_iterations} if solver != "exact" else {}
        if curvature not in _CURVATURES:
            raise ValueError(f"curvature must be hessian or gauss_newton, not {curvature}")
        if solver in ("minres", "minres_qlp") and negative_curvature != "ignore":
            options["negative_curvature"] = "stop"
        newton = NewtonStep(
            _built("solver", solver, options),
            _CURVATURES[curvature](),
            _built("line_search", line_search),
            _built("forcing", forcing),
            NoPreconditioner(),
            _damping(damping_rule, damping, damping_factor, damping_min),
            negative_curvature,
        )
        self._newton = StochasticStep(newton)
        self._generator = torch.Generator().manual_seed(0)  # for the start of Lanczos at a saddle
        self.note = ""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; a group has an `lr` and a `damping` of its own, and nothing else.

        Parameters
        ----------
        param_group : dict
            `params`, and what differs from the other groups.

        Raises
        ------
        ValueError
            For another key, or a value that is not valid.
        """
        known = {"params", "param_names", *self.defaults}
        if unknown := sorted(set(param_group) - known):
            raise ValueError(
                f"NewtonKrylov solves one system for all weights, whose groups differ by lr and "
                f"damping only, not by {', '.join(unknown)}"
            )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name, lowest in (("lr", "above 0"), ("damping", "at least 0")):
            value = group[name]
            if not (0 < value < math.inf or (name == "damping" and value == 0)):
                self.param_groups.pop()
                raise ValueError(f"{name} must be {lowest}, not {value}")

    def _spread(self, weights: Weights, key: str) -> float | Tensor:
        """Return what the groups say: one number, or one for each weight, shape (dim,)."""
        of = {id(p): group for group in self.param_groups for p in group["params"]}
        values = [of[id(p)].get(key, self.defaults[key]) for p in weights.parameters]
        if len(set(values)) == 1:
            return float(values[0])
        sizes = torch.tensor(weights.sizes)
        spread = torch.tensor(values, dtype=torch.float64).repeat_interleave(sizes)
        return spread.to(weights.device, weights.parameters[0].dtype)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Make one step.

        Parameters
        ----------
        closure : callable
            Returns the loss, a tensor of one element, of the same batch at every call.

        Returns
        -------
        Tensor
            The loss where the step began. What else happened is in `note`, in words.

        Raises
        ------
        ValueError
            Without a closure, or if it does not return a loss.
        UnsupportedError
            If the closure gives two losses at the same weights.
        """
        if closure is None:
            raise ValueError("NewtonKrylov evaluates the loss several times: step needs a closure")
        weights = Weights.of(self)
        state = self.state[self.param_groups[0]["params"][0]]
        memory = self._newton.memory()
        if state:
            memory.load_state_dict(state["newton"])
        memory.damping = _ByGroup(memory.damping, self._spread(weights, "damping"), self.defaults)
        fixing = closing(FixedClosure(closure, weights.device))
        with torch.enable_grad(), weights.replaced(), fixing as fixed:
            loss = ClosureLoss(weights, fixed)
            point = loss.at(weights.get())
            if not state:
                loss.check(point)
            rate: Any = self._spread(weights, "lr")
            rate = _Rates(rate) if isinstance(rate, Tensor) else rate
            step: Step | str = f"the loss is {float(point.loss)} where the step begins: no step"
            if point.loss.isfinite():
                step = self._newton(point, memory, self._generator, rate)
        if isinstance(step, str):
            self.note = step
        else:
            weights.set(step.point.w)
            self.note = "; ".join(step.notes)
        weights.set_gradient(point.grad)
        memory.kept = None  # the next step may be on another batch
        state["newton"] = memory.state_dict()
        return point.loss


class _Rates:
    """Factors of a step's entries; they multiply it from the right, as a number does."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def __rmul__(self, p: Tensor) -> Tensor:
        return p * self.factors


class _ByGroup(Damping):
    """A damping whose tau stands for the default's, the groups' in proportion."""

    def __init__(
        self, base: Damping, values: float | Tensor, defaults: Mapping[str, float]
    ) -> None:
        self.base = base
        self.values = values
        self.default = defaults["damping"]

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        """Whether the damping itself is."""
        return self.base.adaptive

    def damped(self, A: LinearOperator, generator: torch.Generator) -> LinearOperator:
        """Return A + diag(tau)."""
        if not isinstance(self.values, Tensor) and self.values == self.default:
            return self.base.damped(A, generator)
        tau = self.values
        if isinstance(self.base, Marquardt):
            tau = tau * (self.base.tau / self.default)
        n = A.shape[0]
        return FunctionOperator(lambda v: add_diagonal(A @ v, v, tau), n, A.dtype, A.device)

    def judge(self, trial: Trial) -> bool:
        """Ask the damping itself."""
        return self.base.judge(trial)

    def state_dict(self) -> dict[str, Any]:
        """Return that of the damping itself."""
        return self.base.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pass it on to the damping itself."""
        self.base.load_state_dict(state)


def _built(group: str, part: Any, options: Mapping[str, Any] = MappingProxyType({})) -> Any:
    return named(group, part).build(options) if isinstance(part, str) else part


def _damping(rule: str, tau: float, factor: float, lowest: float) -> Damping:
    if rule not in get_args(DampingRule):
        was = ", which was levenberg_marquardt" if rule == "levenberg_marquardt" else ""
        raise ConfigError(f'damping_rule should be "fixed" or "marquardt"{was}, not {rule!r}.')
    if rule == "fixed":
        return Fixed(tau)
    if tau <= 0:
        raise ConfigError(f"an adaptive damping is multiplied: give one above 0, not {tau}.")
    return Marquardt(tau, factor, lowest)
