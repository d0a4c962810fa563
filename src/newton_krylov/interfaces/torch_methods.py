"""The methods of `minimize` as optimizers of torch, which training loops step as they do LBFGS."""

import math
from collections.abc import Iterable
from contextlib import closing
from typing import Any, ClassVar

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.interfaces.closure import Closure, FixedClosure
from newton_krylov.interfaces.closure_loss import ClosureLoss, Weights
from newton_krylov.interfaces.parts import built_optimizer
from newton_krylov.optimizers.base import ContinuedOptimizer, Step


class _Method(torch.optim.Optimizer):
    """One registered optimizer, a few iterations a step; see `BFGS`."""

    name: ClassVar[str]
    line_search: ClassVar[str] = "none"
    twice: ClassVar[bool] = True
    """Whether it takes products with the Hessian."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        max_iter: int = 20,
        tolerance_grad: float = 0.0,
        line_search: str | None = None,
        **options: Any,
    ) -> None:
        if not max_iter >= 1:
            raise ValueError(f"max_iter must be at least 1, not {max_iter}")
        if not 0 <= tolerance_grad < math.inf:
            raise ValueError(f"tolerance_grad must be at least 0, not {tolerance_grad}")
        super().__init__(params, {})
        self.max_iter, self.tolerance_grad = max_iter, tolerance_grad
        made = built_optimizer(self.name, options, line_search or self.line_search)
        assert isinstance(made, ContinuedOptimizer)
        self._optimizer = made
        self.note = ""
        Weights.of(self)  # refuses parameters that make no one vector

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which have no settings of their own.

        Parameters
        ----------
        param_group : dict
            `params`.

        Raises
        ------
        ValueError
            For another key.
        """
        if unknown := sorted(set(param_group) - {"params", "param_names"}):
            raise ValueError(
                f"{type(self).__name__} makes one step for all parameters: its groups have no "
                f"{', '.join(unknown)} of their own"
            )
        super().add_param_group(param_group)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Make up to `max_iter` iterations, on one batch.

        Parameters
        ----------
        closure : callable
            Returns the loss, a tensor of one element, of the same batch at every call; it may call
            `backward`.

        Returns
        -------
        Tensor
            The loss where the step began. Why it ended early, or what happened in its last
            iteration, is in `note`, in words.

        Raises
        ------
        ValueError
            Without a closure, or if it does not return a loss.
        UnsupportedError
            If the closure gives two losses at the same weights.
        """
        if closure is None:
            raise ValueError(
                f"{type(self).__name__} evaluates the loss several times: step needs a closure"
            )
        weights = Weights.of(self)
        state = self.state[self.param_groups[0]["params"][0]]
        fixing = closing(FixedClosure(closure, weights.device))
        with torch.enable_grad(), weights.replaced(), fixing as fixed:
            loss = ClosureLoss(weights, fixed, twice=self.twice)
            start = loss.at(weights.get())
            if not state:
                loss.check(start)
            if not start.loss.isfinite():
                self.note = f"the loss is {float(start.loss)} where the step begins: no step"
                return start.loss
            last = self._iterated(loss, start.w, state)
        weights.set(last.point.w)
        weights.set_gradient(last.point.grad)
        return start.loss

    def _iterated(self, loss: ClosureLoss, w: Tensor, state: dict[str, Any]) -> Step:
        """Iterate, and keep what the next step needs; return the last step."""
        generator = torch.Generator()
        if state.get("dim") == loss.dim:
            generator.set_state(state["generator"].to("cpu", torch.uint8))
            self._optimizer.load_state_dict(state["memory"])
        else:
            generator.manual_seed(0)
        steps = self._optimizer.steps(loss, w, generator)
        last = next(steps).evaluated()
        self.note = ""
        for _ in range(self.max_iter):
            if last.point.grad_norm <= self.tolerance_grad:
                self.note = "the gradient meets tolerance_grad"
                break
            try:
                step = next(steps).evaluated()
            except StopIteration as end:
                self.note = str(end.value)
                break
            if not math.isfinite(step.point.value):
                self.note = "the loss is not finite where the step led"
                break
            last, self.note = step, "; ".join(step.notes)
        memory = self._optimizer.state_dict()
        if memory is None:
            raise UnsupportedError(f"{type(self).__name__} cannot go on from here.")
        state.update(dim=loss.dim, memory=memory, generator=generator.get_state())
        return last


class BFGS(_Method):
    """BFGS with a dense matrix, as a `torch.optim.Optimizer`.

    Like `torch.optim.LBFGS` it takes a closure that returns the loss (and may call `backward`),
    and makes several iterations a step. The closure is one function of the weights during a step;
    its batch is chosen outside of it, and dropout has one mask a step (another one in the next, so
    that long steps fit to one: lower `max_iter`). What the method has learned goes on from step to
    step, and is part of `state_dict`. After a step `.grad` holds the gradient where it ended, and
    `note` says what happened.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Parameters of one floating-point type, float32 or float64, on one device.
    max_iter : int
        Iterations of a step.
    tolerance_grad : float
        A step ends early where the gradient's norm is at most this.
    line_search : str, optional
        Name of a line search; the method's own by default.
    **options
        Keys of the registered optimizer of the same name, such as `scaling` of `bfgs`.

    Examples
    --------
    >>> import torch
    >>> from newton_krylov import BFGS
    >>> x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    >>> optimizer = BFGS([x], max_iter=50)
    >>> _ = optimizer.step(lambda: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)
    >>> x.detach().round(decimals=6).tolist()
    [1.0, 1.0]
    """

    name, line_search, twice = "bfgs", "hager_zhang", False


class SSBFGS(_Method):
    """Self-scaled BFGS with a dense matrix; see `BFGS`."""

    name, line_search, twice = "ssbfgs", "strong_wolfe", False


class SSBroyden(_Method):
    """Self-scaled Broyden method with a dense matrix; see `BFGS`."""

    name, line_search, twice = "ssbroyden", "hager_zhang", False


class TrustRegion(_Method):
    """Newton's method in a trust region, with products of the Hessian; see `BFGS`."""

    name = "trust_region"


class ARC(_Method):
    """Newton's method with an adaptive cubic regularization; see `BFGS`."""

    name = "arc"


class RegularizedNewton(_Method):
    """Newton's method regularized by its gradient, with capped CG; see `BFGS`."""

    name = "regularized_newton"


class NNCG(_Method):
    """Newton's method by CG that a Nystrom sketch preconditions; see `BFGS`."""

    name, line_search = "nncg", "armijo"
