"""The residuals that a data set poses: of its equation, its curve, or its targets."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from newton_krylov.capabilities import RESIDUALS, SAMPLES
from newton_krylov.data.dataset import CurveFit, Dataset, LabelledData, Split
from newton_krylov.data.equation import Block, EquationProblem, Jet, derivatives
from newton_krylov.errors import CombinationError, ConfigError, UnsupportedError, suggest
from newton_krylov.norms import euclidean
from newton_krylov.objectives.graph import depend
from newton_krylov.objectives.network.private import hold_frozen
from newton_krylov.objectives.residual.objective import GIB, ResidualObjective, ResidualPoint
from newton_krylov.objectives.residual.taylor import FactoredJacobian, Perceptron, Pushed
from newton_krylov.operators import RectangularOperator
from newton_krylov.registry import entry, names, register

Memory = Annotated[float, Field(gt=0)]

_SHOWN = 10_000
"""At how many points a solution is drawn, at most."""
_GROWTH = 1.07
"""What a solved window is multiplied by."""


@dataclass(frozen=True)
class Draw:
    """Which draw of an equation's points, and the part of the time that they lie in."""

    number: int
    window: float


@register("loss", "residual", needs=(RESIDUALS,))
class ResidualLoss(ResidualObjective):
    """Half a weighted sum of squares: of an equation's residuals, or of a fit's.

    What the residuals are, the data set says: the blocks of its differential equation; the
    distances of its curve from its targets; else those of the network's output from the targets
    of a regression, divided by the root of their number, so that the loss is that of `mse`.

    Parameters
    ----------
    dataset : Dataset
        An equation, a curve fit or a regression.
    model : nn.Module
        The network, one output; a curve has parameters of its own, and takes none.
    residual : str or None
        Name of a function registered in the group `residual`: (model, points) -> residuals, one
        tensor or several by name, in the place of the data set's own. `points` is the training
        samples, shape (n_samples, n_features).
    memory : float
        GiB that a dense Jacobian, and the passes that form it, may take.

    Raises
    ------
    CombinationError
        If the data set poses no residuals, or the network has no parameters or, for its residuals,
        several outputs.
    UnsupportedError
        If the registered function returns no tensors, or none that depend on the network.
    """

    offers = ResidualObjective.offers | {SAMPLES}
    usual_dtype = "float64"
    """What `dtype=auto` stands for: the digits that residuals are asked for, float32 has not."""

    def __init__(
        self, dataset: Dataset, model: nn.Module, residual: str | None = None, memory: Memory = 2.0
    ) -> None:
        self._solved = dataset.equation if isinstance(dataset, EquationProblem) else None
        self.quickly_measured = self._solved is None  # else there are test points, fresh points
        self._draw, self.renewal = Draw(0, 1.0), 0
        self._network: Perceptron | None = None
        self._posing: tuple[Block, ...] = ()
        self._names: list[str] = []
        bytes_ = memory * GIB
        if residual is None and isinstance(dataset, CurveFit):
            self._initial = dataset.start
            super().__init__(dataset.residuals, self._initial, memory=bytes_)
            return
        self._take(model, _points(dataset))
        if residual is not None:
            function = _own(residual, _points(dataset), self.outputs)
            super().__init__(function, self._initial, memory=bytes_)
            self._check_dependence(residual)
            return
        self._check_output(_points(dataset)[:2])
        self._network = Perceptron.of(self._module)
        self._pose(self._solved.blocks if self._solved else (_regression(dataset),))
        sampling = None if self._solved is None else self._solved.sampling
        if sampling is not None:
            self._draw, self.renewal = Draw(0, sampling.window), sampling.every
        super().__init__(self._function, self._initial, self._block_weights, memory=bytes_)

    @property
    def _block_weights(self) -> dict[str, float]:
        return {block.name: block.weight for block in self._posing}

    def _pose(self, blocks: tuple[Block, ...]) -> None:
        """Take the residuals of these blocks."""
        self._posing, self._function = blocks, self._posed

    def _take(self, model: nn.Module, points: Tensor) -> None:
        """Keep a copy of the network, where the points are."""
        self._module = copy.deepcopy(model).to(points.device)
        hold_frozen(self._module)
        self._names = [name for name, _ in self._module.named_parameters()]
        self._shapes = [p.shape for p in self._module.parameters()]
        guesses = [guess for guess, _ in self._coefficients.values()]
        parts = [p.detach().reshape(-1) for p in self._module.parameters()]
        if not parts:
            raise CombinationError("loss=residual takes a network, and this one has no parameters.")
        self._initial = torch.cat([*parts, parts[0].new_tensor(guesses)])

    def _check_output(self, x: Tensor) -> None:
        """Refuse a network that does not return one number for a point."""
        with torch.no_grad():
            shape = tuple(self.outputs(self._initial, x).shape)
        if shape != (len(x), 1):
            raise CombinationError(
                f"loss=residual takes a network of one output, shape {(len(x), 1)} of {len(x)} "
                f"points, and this one returns {shape}."
            )

    def _check_dependence(self, name: str) -> None:
        """Refuse residuals without a gradient, whose fit would end where it begins."""
        w = self._initial.clone().requires_grad_()
        if not depend(self._called(w).values(), w):
            raise UnsupportedError(
                f"What loss.residual={name} returns does not depend on the network's weights in "
                f"autograd's eyes: compute it of model(points) by torch operations, without "
                f"detach, item, numpy or torch.no_grad."
            )

    @property
    def _coefficients(self) -> Mapping[str, tuple[float, float]]:
        return {} if self._solved is None else self._solved.coefficients

    def initial(self) -> Tensor:
        """Return the curve's or the network's first parameters, shape (dim,)."""
        return self._initial.clone()

    @property
    def _weights(self) -> int:
        """How many of the parameters are the network's; an equation's coefficients follow."""
        return len(self._initial) - len(self._coefficients)

    def found(self, w: Tensor) -> dict[str, float]:
        """Return the equation's coefficients that are to be found, at w, shape (dim,)."""
        return dict(zip(self._coefficients, w[self._weights :].tolist(), strict=True))

    def sought(self) -> dict[str, float]:
        """Return the true values of these coefficients."""
        return {name: true for name, (_, true) in self._coefficients.items()}

    def outputs(self, w: Tensor, x: Tensor) -> Tensor:
        """Run the network.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            The network's weights.
        x : Tensor, shape (n, d)
            Points.

        Returns
        -------
        Tensor, shape (n, outputs)
            Differentiable by both.
        """
        parts = torch.split(w[: self._weights], [shape.numel() for shape in self._shapes])
        named = {
            name: part.view(shape)
            for name, part, shape in zip(self._names, parts, self._shapes, strict=True)
        }
        found: Tensor = functional_call(self._module, named, (x,))
        return found

    def evaluated(self, w: Tensor) -> tuple[Tensor, list[Pushed] | None]:
        """Return the residuals at w, shape (dim,), and the layers' channels if they are known."""
        if self._network is None or self._rows is not None:
            return super().evaluated(w)
        pushed = [self._network.push(w, block) for block in self._posing]
        pairs = zip(self._posing, pushed, strict=True)
        r = [block.weight**0.5 * block.residual(channels.jet) for block, channels in pairs]
        return torch.cat(r), pushed

    def linearized(
        self, w: Tensor, kept: list[Pushed] | None = None
    ) -> tuple[RectangularOperator, Tensor]:
        """Return the Jacobian at w, shape (dim,), and the residuals; by factors where they fit."""
        if self._network is None or self._rows is not None:
            return super().linearized(w)
        J = FactoredJacobian(self._network, self._posing, w, kept)
        return J, J.r

    def bend(self, point: ResidualPoint, p: Tensor) -> Tensor:
        """Return d2/dt2 r(w + t p) at t = 0, shape (n_residuals,).

        Of a perceptron by one more evaluation: forward mode twice costs twenty times as much, and
        the correction it is for is itself of second order.
        """
        if self._network is None:
            return super().bend(point, p)
        return self.bent(point, p, point.normal.image(p))

    def subset(self, index: Tensor) -> ResidualObjective:
        """Take some of the residuals; of an equation's blocks, at their points alone.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Residual numbers.

        Returns
        -------
        ResidualObjective
            Its residuals have the order of the blocks.
        """
        if self._solved is None or self._solved.trial is not None or not self._posing:
            return super().subset(index)
        part = copy.copy(self)
        part.n_samples = part.n_residuals = len(index)
        part.share, part.renewal = self.share * len(index) / self.n_samples, 0
        factor, blocks = self.n_samples / len(index), []
        for block, place in zip(self._posing, self.blocks.values(), strict=True):
            rows = index[(index >= place.start) & (index < place.stop)] - place.start
            if len(rows):
                blocks.append(block.restricted(rows, factor))
        part._pose(tuple(blocks))
        part._arrange({block.name: len(block.points) for block in blocks},
                      {block.name: block.weight for block in blocks})  # fmt: skip
        return part

    def renewed(self, w: Tensor) -> "ResidualLoss":
        """Return the loss at the points of the next draw, in a longer window if w solves this one.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters reached.

        Returns
        -------
        ResidualLoss
            Its counts are this one's.
        """
        assert self._solved is not None and self._solved.sampling is not None
        number, window = self._draw.number + 1, self._draw.window
        other = self._drawn(Draw(number, window))
        if window < 1 and other.at(w).value < self._solved.sampling.tolerance:
            other = self._drawn(Draw(number, min(1.0, _GROWTH * window)))
        return other

    def state_dict(self) -> dict[str, float]:
        """Return which draw it is of."""
        return {"number": self._draw.number, "window": self._draw.window}

    def restored(self, state: Mapping[str, float]) -> "ResidualLoss":
        """Return the loss at the points of the draw that a state is of."""
        return self._drawn(Draw(int(state["number"]), state["window"]))

    def _drawn(self, draw: Draw) -> "ResidualLoss":
        assert self._solved is not None
        other = copy.copy(self)
        other._draw = draw
        other._pose(self._solved.drawn(draw.number, draw.window))
        return other

    @property
    def note(self) -> str:
        """The part of the time that the points lie in, while it grows."""
        window = self._draw.window
        return "" if window == 1 else f"t up to {window:.3g}"

    def solution(self, w: Tensor, x: Tensor) -> Tensor:
        """Return the equation's u at points.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        x : Tensor, shape (n, d)
            Points.

        Returns
        -------
        Tensor, shape (n,)
            The network's output, or what a trial function makes of it.
        """
        assert self._solved is not None
        return self._solved.value(x, self.outputs(w, x)[:, 0])

    def l2_error(self, w: Tensor) -> float | None:
        """Return |u - solution| / |solution| on the equation's test points.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        float or None
            None where no solution is known.
        """
        if self._solved is None:
            return None
        with torch.no_grad():
            error = self.solution(w, self._solved.test) - self._solved.solution
        return euclidean(error) / euclidean(self._solved.solution)

    def fields(self, w: Tensor) -> dict[str, Tensor] | None:
        """Return the solution at some of the test points of a problem in the plane.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        dict of str to Tensor, or None
            `points`, shape (n, 2), and `solution`, `error`, `residual`, shape (n,).
        """
        if self._solved is None or self._solved.test.shape[1] != 2:
            return None
        every = -(-len(self._solved.test) // _SHOWN)
        x = self._solved.test[::every]
        block = self._solved.everywhere(x)
        if block is None:
            return None
        u = self.solution(w, x).detach()
        residual = block.residual(self._jet(w, block)).detach()
        known = self._solved.solution[::every]
        return {"points": x, "solution": u, "error": u - known, "residual": residual}

    def fresh_loss(self, w: Tensor) -> float | None:
        """Return the loss at points that no draw has, over all of the time.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        float or None
            None where points are not drawn.
        """
        if self._fresh is None:
            return None
        return self._fresh.at(w).value

    @cached_property
    def _fresh(self) -> "ResidualLoss | None":
        blocks = None if self._solved is None or not self._posing else self._solved.fresh
        if blocks is None:
            return None
        other = copy.copy(self)
        other._pose(blocks)
        return other

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return half the mean squared error of the network on a regression's split."""
        if [block.name for block in self._posing] != [_TARGETS]:
            return None
        with torch.no_grad():
            return float((self.outputs(w, split.X)[:, 0] - split.y).square().mean()) / 2

    def _posed(self, w: Tensor) -> Mapping[str, Tensor]:
        found = {}
        for block in self._posing:
            found[block.name] = block.residual(self._jet(w, block))
        return found

    def _jet(self, w: Tensor, block: Block) -> Jet:
        if self._network is not None:
            return self._network.push(w, block).jet
        coefficients = w[self._weights :]
        return derivatives(lambda x: self.outputs(w, x)[:, 0], block, coefficients)


_TARGETS = "targets"


def _points(dataset: Dataset) -> Tensor:
    """Return the training samples, dense, or an equation's points, shape (n, d)."""
    if isinstance(dataset, EquationProblem):
        return torch.cat([block.points.flatten(0, 1) for block in dataset.equation.blocks])
    if isinstance(dataset, LabelledData) and dataset.task == "regression":
        X = dataset.train.X
        return X if X.layout is torch.strided else X.to_dense()
    what = dataset.task if isinstance(dataset, LabelledData) else dataset.kind
    raise CombinationError(
        f"loss=residual needs an equation, a curve or a regression, but dataset={dataset.name} is "
        f"{what}; take dataset=poisson_2d, nist_misra1a or diabetes."
    )


def _regression(dataset: Dataset) -> Block:
    assert isinstance(dataset, LabelledData)
    X, y, weights = _points(dataset), dataset.train.y, dataset.train.weights
    root = torch.ones_like(y) if weights is None else weights.sqrt()

    def distance(jet: Jet) -> Tensor:
        return root * (jet.value[:, 0] - jet.target)

    return Block(_TARGETS, X[:, None, :], distance, y, 1 / len(y))


def _own(
    name: str, points: Tensor, outputs: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor | Mapping[str, Tensor]]:
    """Bind a registered residual function to the network and the points."""
    if name not in names("residual"):
        known = suggest(name, names("residual"))
        raise ConfigError(f"loss.residual={name} is unknown{known}")
    posed = entry("residual", name).target
    return lambda w: posed(lambda x: outputs(w, x), points)
