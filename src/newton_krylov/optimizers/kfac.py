"""Stochastic K-FAC: a step by the inverse Kronecker factors of each layer."""

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, LAYERS
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.objectives.network.kronecker import (
    WIDE,
    Fisher,
    Kronecker,
    Sharing,
    named,
    told,
)
from newton_krylov.objectives.network.layer_calls import Layer
from newton_krylov.objectives.network.objective import Network
from newton_krylov.objectives.network.point import NetworkPoint
from newton_krylov.operators import eigh
from newton_krylov.optimizers.base import ContinuedOptimizer, State, Steps
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import EpochMemory, Epochs, Momentum, Update
from newton_krylov.registry import register

_BEGINNING = 10
"""Steps in which every second one looks at the factors: those of the first weights are soon old."""
_ADAPT = 0.95
"""By which the damping changes a step; Martens and Grosse's (19/20), to the power of the steps."""

Tensors = dict[str, Tensor]


class KFACMemory(EpochMemory):
    """What K-FAC carries from step to step.

    Attributes
    ----------
    steps, seen : int
        Steps made, and factors taken into the means.
    damping : float
        As it is now.
    factors, inverses : dict of str to dict of str to Tensor
        By layer: A (or the last inputs U, where they are wider than many) and B (or its diagonal);
        what solves with them.
    diagonals : dict of str to Tensor
        Of parameters without factors.
    velocity : Tensor or None, shape (dim,)
        The directions' sum.
    """

    def __init__(self, damping: float) -> None:
        super().__init__()
        self.steps, self.seen, self.damping = 0, 0, damping
        self.factors: dict[str, Tensors] = {}
        self.inverses: dict[str, Tensors] = {}
        self.diagonals: Tensors = {}
        self.velocity: Tensor | None = None

    def state_dict(self) -> State:
        """Return all of it."""
        return dict(vars(self))

    def load_state_dict(self, state: State) -> None:
        """Take all of it from a checkpoint."""
        vars(self).update(state)


@register("optimizer", "kfac", needs=(LAYERS, ALL_SAMPLES))
class KFAC(ContinuedOptimizer[KFACMemory]):
    """Natural gradient by Kronecker factors, in mini-batches; a step is one epoch.

    Each layer's gradient G becomes (B + sqrt(damping)/pi I)^-1 G (A + pi sqrt(damping) I)^-1, with
    running means of the factors (see `hessian_approx=kfac`) and pi^2 the ratio of A's mean
    eigenvalue to B's (Martens and Grosse, "Optimizing neural networks with Kronecker-factored
    approximate curvature", 2015; Grosse and Martens, 2016, for convolutions). The direction's
    length is bounded by rate^2 p'g <= clip, that of the change of the predictions (Ba, Grosse and
    Martens, "Distributed second-order optimization using Kronecker-factored approximations",
    2017); then comes momentum.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    momentum : float
        In [0, 1).
    damping : float
        Added to the curvature, by its factors.
    adapt_every : int or None
        Steps between two comparisons of what the model of the loss predicted with what came true,
        by which the damping moves (Levenberg and Marquardt's rule): a Gauss-Newton product and an
        evaluation each. None leaves it.
    clip : float or None
        Bound of rate^2 p'g; None for none.
    decay : float
        Of the factors' running means.
    factors_every, inverses_every : int
        Steps between two updates of the factors, and of their inverses.
    curvature_samples : int or None
        How many of a mini-batch's samples the factors are made of; None takes all.
    window : int
        The widest side of which the factor is a matrix, which a run notes. Of wider inputs the last
        `window` rows are kept, and their covariance is inverted by Woodbury's formula; of wider
        outputs the diagonal is.
    fisher : {"mc", "ggn", "empirical"}
        Gradients that the factors are made of; see `hessian_approx=kfac`.
    sharing : {"expand", "reduce"}
        Whether the positions of a shared weight count as samples, or make one.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.03,
        momentum: Momentum = 0.9,
        damping: PositiveFloat = 0.1,
        adapt_every: PositiveInt | None = None,
        clip: PositiveFloat | None = 1e-3,
        decay: Momentum = 0.95,
        factors_every: PositiveInt = 10,
        inverses_every: PositiveInt = 20,
        curvature_samples: PositiveInt | None = 256,
        window: PositiveInt = 1024,
        fisher: Fisher = "mc",
        sharing: Sharing = "expand",
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        self.learning_rate, self.momentum, self.damping = learning_rate, momentum, damping
        self.adapt_every, self.clip, self.decay = adapt_every, clip, decay
        self.factors_every, self.inverses_every = factors_every, inverses_every
        self.curvature_samples, self.window = curvature_samples, window
        self.how = Kronecker(fisher, 1, sharing, window=window)
        self.batch_size, self.schedule = batch_size, schedule

    def memory(self, objective: Objective, w0: Tensor) -> KFACMemory:
        """Return a memory without factors.

        Raises
        ------
        UnsupportedError
            If the objective is no network in one process.
        """
        if not isinstance(objective, Network):
            raise UnsupportedError(
                f"optimizer=kfac needs a network in one process, which "
                f"{type(objective).__name__} is not; take newton or lbfgs."
            )
        return KFACMemory(self.damping)

    def iterate(
        self, objective: Objective, w0: Tensor, memory: KFACMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""
        assert isinstance(objective, Network)
        passes = objective.passes

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            return self._advance(batch.at(w), memory, rate * self.learning_rate, generator)

        def remark() -> tuple[str, ...]:
            damping = f"damping {memory.damping:.3g}" if self.adapt_every else ""
            wide = [k for k, own in memory.factors.items() if "U" in own or own["B"].ndim == 1]
            names = named(passes, (layer_of(key).weight for key in wide))
            return tuple(filter(None, (damping, told(WIDE, names))))

        epochs = Epochs(self.batch_size, self.schedule, memory)
        return (yield from epochs.steps(objective, w0, generator, advance, remark))

    def _advance(
        self, point: Point, memory: KFACMemory, rate: float, generator: torch.Generator
    ) -> Update:
        gradient, loss = point.grad, point.later()
        t = memory.steps
        early = t < _BEGINNING and t % 2 == 0
        learn = early or t % self.factors_every == 0
        invert = early or t == _BEGINNING or t % self.inverses_every == 0
        if learn:
            self._learn(self._sampled(point), memory, generator)
        if invert:
            self._invert(memory)
        if learn or invert:
            self._correct(point, memory, generator)
        memory.steps += 1
        p = self._solve(point, memory)
        if self.clip is not None and rate > 0:
            change = rate**2 * torch.dot(p, gradient).double()
            bound = torch.where(change > 0, (self.clip / change).sqrt().clamp_max(1.0), 1.0)
            p.mul_(bound.to(p.dtype))
        if memory.velocity is not None and self.momentum > 0:
            p.add_(memory.velocity, alpha=self.momentum)
        memory.velocity = p
        new = torch.add(point.w, p, alpha=-rate)
        if self.adapt_every and t % self.adapt_every == 0 and rate > 0:
            self._adapt(point, new, memory)
        return Update(new, loss, lambda: point.grad_norm, rate)

    def _sampled(self, point: Point) -> NetworkPoint:
        """Return the point over the first samples of the batch, which is drawn at random."""
        size = self.curvature_samples
        if size is not None and size < point.objective.n_samples:
            point = point.subset(torch.arange(size, device=point.w.device))
        assert isinstance(point, NetworkPoint)
        return point

    def _learn(self, point: NetworkPoint, memory: KFACMemory, generator: torch.Generator) -> None:
        """Take a batch's factors into the means."""
        found = point.kronecker_passes(self.how, generator).factors()
        memory.seen += 1
        rate = max(1 - self.decay, 1 / memory.seen)
        for layer, covariance in found.inputs.items():
            own = memory.factors.setdefault(key_of(layer), {})
            mix(own, "B", found.gradients[layer], rate)
            if not covariance.wide:
                mix(own, "A", covariance.matrix(), rate)
            else:
                rows = [covariance.kept(), *([own["U"]] if "U" in own else [])]
                own["U"] = torch.cat(rows)[: self.window]
        for number, d in found.diagonals.items():
            mix(memory.diagonals, str(number), d, rate)

    def _invert(self, memory: KFACMemory) -> None:
        """Invert the damped factors."""
        root = math.sqrt(memory.damping)
        for key, own in memory.factors.items():
            B, wide = own["B"], own.get("U")
            size = own["A"].diagonal().mean() if wide is None else wide.square().mean()
            tiny = torch.finfo(B.dtype).tiny
            mean = (B.diagonal() if B.ndim == 2 else B).mean()
            pi = (size / mean.clamp_min(tiny)).clamp(1e-14, 1e14).sqrt()
            found = {"B": _inverse(B, root / pi)}
            if wide is None:
                found["A"] = _inverse(own["A"], root * pi)
            else:
                gamma = root * pi
                gram = _inverse(wide @ wide.T, gamma * len(wide))
                found |= {"U": wide, "K": gram, "gamma": gamma}
            memory.inverses[key] = found

    def _correct(self, point: Point, memory: KFACMemory, generator: torch.Generator) -> None:
        """Look at what the factors leave out: nothing here."""

    def _divided(self, own: Tensors, layer: Layer, G: Tensor, damping: float) -> Tensor:
        """Return a layer's gradient by the inverse of its block; the damping is in the inverses."""
        return _times_inverse(own, G)

    def _solve(self, point: Point, memory: KFACMemory) -> Tensor:
        """Return the preconditioned gradient."""
        assert isinstance(point, NetworkPoint)
        f = point.objective.passes
        out = torch.empty_like(point.grad)
        gradients, outs = f.split(point.grad), f.split(out)
        for key, own in memory.inverses.items():
            layer = layer_of(key)
            new = self._divided(own, layer, layer.joined(gradients), memory.damping)
            layer.separate(new, outs)
        for key, d in memory.diagonals.items():
            torch.div(gradients[int(key)], d + memory.damping, out=outs[int(key)])
        return out

    def _adapt(self, point: Point, new: Tensor, memory: KFACMemory) -> None:
        """Move the damping by what the quadratic model predicted of the step."""
        step = new - point.w
        bend = point.gauss_newton().affine(shift=memory.damping) @ step
        predicted = float(torch.dot(point.grad, step) + torch.dot(step, bend) / 2)
        actual = point.objective.at(new).value - point.value
        ratio = actual / predicted if predicted < 0 else 0.0
        factor = _ADAPT ** (self.adapt_every or 1)
        if ratio > 0.75:
            memory.damping *= factor
        elif not ratio >= 0.25:
            memory.damping /= factor


def key_of(layer: Layer) -> str:
    """Return a layer's key in a memory's factors, which checkpoints can hold."""
    return f"{layer.weight} {'' if layer.bias is None else layer.bias}"


def layer_of(key: str) -> Layer:
    """Return the layer that a key of a memory's factors stands for."""
    weight, bias = key.split(" ")
    return Layer(int(weight), int(bias) if bias else None)


def mix(means: Tensors, name: str, new: Tensor, rate: float) -> None:
    """Move a running mean towards a new value; the first value is taken as it is."""
    known = means.get(name)
    means[name] = new if known is None else torch.lerp(known, new, rate)


def _inverse(matrix: Tensor, shift: Tensor) -> Tensor:
    """Return (A + shift I)^-1 of a semidefinite matrix, or of a diagonal, shape (n,)."""
    if matrix.ndim == 1:
        return (matrix + shift).reciprocal()
    shifted = matrix.clone()
    shifted.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed):  # rounding has made it indefinite: the eigenvalues are cut off at zero
        values, Q = eigh(matrix.double())
        inverse: Tensor = (Q / (values.clamp_min(0) + shift)) @ Q.T
        return inverse.to(matrix.dtype)
    return torch.cholesky_inverse(factor)


def _times_inverse(own: Tensors, G: Tensor) -> Tensor:
    """Return (B + ..)^-1 G (A + ..)^-1."""
    B = own["B"]
    X: Tensor = B @ G if B.ndim == 2 else B[:, None] * G
    if "A" in own:
        return X @ own["A"]
    inside = (X @ own["U"].T) @ own["K"]
    return torch.addmm(X, inside, own["U"], alpha=-1).div_(own["gamma"])
