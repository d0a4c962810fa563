"""A criterion as it is: its precision, and how the losses of parts make the loss of the whole.

The mean over a batch is the mean of its parts' means, weighted by their numbers of samples, for
many criteria; by other weights where classes have weights or some targets are ignored; and not at
all for criteria whose samples know of one another. What is true of a criterion is tried out.
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.graphs import Criterion
from newton_krylov.objectives.network.likelihood import Draw, drawn_gradient, likelihood

_IGNORED = -100
"""The class index that torch's losses leave out unless another is named."""
_TRIED = 2**22
"""Numbers of outputs on which a criterion is tried out, at most."""

Masses = Callable[[Tensor], Tensor]
"""Targets, shape (n, ...) -> what each sample weighs in the mean, shape (n,)."""


@dataclass(frozen=True)
class Loss:
    """A criterion with what is known of it.

    Attributes
    ----------
    criterion : callable
        (outputs, targets) -> the loss of a batch.
    in_double : bool
        Whether it takes outputs and targets in double precision, whatever the network's.
    masses : callable or None
        What each sample weighs in the mean; None if all weigh the same.
    whole : bool
        Whether the loss of a batch is not the mean of its parts'.
    rows : bool
        Whether targets are grouped by sample, shape (n, rows, ...), while the outputs are not.
    draw : callable or None
        Draws targets from predictions; None where the criterion is no likelihood that is known.
    """

    criterion: Criterion
    in_double: bool = True
    masses: Masses | None = None
    whole: bool = False
    rows: bool = False
    draw: Draw | None = None

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch.

        In double precision where the criterion takes it: the network's own rounding is what it
        is; that of the loss, which decides in line searches, would come on top.
        """
        return self._of_rows(outputs, self._by_rows(y))

    def _of_rows(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.in_double:
            outputs, y = outputs.double(), y.double() if y.is_floating_point() else y
        return self.criterion(outputs, y)

    def _by_rows(self, y: Tensor) -> Tensor:
        return y.flatten(0, 1) if self.rows else y

    def drawn_gradient(self, outputs: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the gradient of a batch's loss by its outputs, at targets drawn from them."""
        assert self.draw is not None
        y = self._by_rows(y)
        return drawn_gradient(self._of_rows, self.draw, outputs, y, generator)

    def sums(self, y: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
        """Return what the samples of each span weigh together: 0 where it has no loss."""
        if self.masses is None:
            return [stop - start for start, stop in spans]
        masses = self.masses(y)
        return [float(masses[start:stop].sum()) for start, stop in spans]

    def weights(self, y: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
        """Return by which factors the losses of spans of the samples add up to that of all."""
        sums = self.sums(y, spans)
        total = len(y) if self.masses is None else self.sums(y, [(0, len(y))])[0]
        return [part / total if total else math.nan for part in sums]

    def shares(self, y: Tensor) -> Tensor | None:
        """Return what each row of the outputs weighs in the mean, shape (n,); None if alike."""
        if self.masses is None:
            return None
        masses = self.masses(self._by_rows(y))
        return masses / masses.sum()

    def require_samples(self) -> None:
        """Refuse a criterion that gives no sample a loss of its own."""
        if self.whole:
            raise UnsupportedError(
                "The criterion is not a mean over samples (the losses of a batch's parts do not "
                "make that of the batch), so there are no gradients of single samples."
            )

    def require_likelihood(self) -> None:
        """Refuse a criterion of which it is not known what it is the likelihood of."""
        self.require_samples()
        if self.draw is None:
            raise UnsupportedError(
                "The Fisher matrix is of a likelihood, which this criterion is not known to be: "
                "use cross entropy, negative log-likelihood, binary cross entropy or mean squares, "
                "without class weights or label smoothing, or take the Gauss-Newton matrix."
            )


def tried(criterion: Criterion, outputs: Tensor, y: Tensor, *, rows: bool = False) -> Loss:
    """Find out what a criterion is.

    Parameters
    ----------
    criterion : callable
        (outputs, targets) -> loss.
    outputs : Tensor, shape (k, ...)
        The network's, of a few samples: repeated they stand for those of all.
    y : Tensor, shape (n, ...)
        All targets.
    rows : bool
        See `Loss`.

    Raises
    ------
    UnsupportedError
        If it does not take the outputs and targets, does not return one number, or another one
        at each call.
    """
    count = max(1, min(len(y), _TRIED // max(1, outputs[:1].numel())))
    index = torch.linspace(0, len(y) - 1, count, device=y.device).round().long()
    some = y[index].flatten(0, 1) if rows else y[index]
    z = outputs.detach()[torch.arange(len(some), device=outputs.device) % len(outputs)]
    try:
        function, in_double = _precision(criterion, z, some)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        shape = ", ".join(["n", *map(str, z.shape[1:])])
        raise UnsupportedError(
            f"The criterion does not take outputs of shape ({shape}) "
            f"with targets of type {str(y.dtype).removeprefix('torch.')}, from {float(y.min()):g} "
            f"to {float(y.max()):g}: {' '.join(str(error).split())}"
        ) from error
    draw = likelihood(criterion)
    z = z.double() if in_double else z
    masses = _masses(criterion)
    if masses is not None:
        whole = _even(masses(y.flatten(0, 1) if rows else y))
        candidates: list[Masses | None] = [None] if whole else [masses]
    else:
        candidates = [None] if some.is_floating_point() else [None, _counted(None, _IGNORED)]
    for candidate in candidates:
        loss = Loss(function, in_double, candidate)
        if _parts_make_the_whole(loss, z, some):
            return replace(loss, rows=rows, draw=draw)
    return Loss(function, in_double, whole=True, rows=rows)


def _precision(criterion: Criterion, z: Tensor, y: Tensor) -> tuple[Criterion, bool]:
    """Return the criterion and whether it takes outputs in double precision.

    One that holds constants in single precision may not; it gets the outputs as they are.
    """
    wide = copy.deepcopy(criterion).double() if isinstance(criterion, nn.Module) else criterion
    y = y.double() if y.is_floating_point() else y
    try:
        value = wide(z.double(), y)
    except (RuntimeError, TypeError):
        if z.dtype == torch.float64:
            raise
        own = copy.deepcopy(criterion) if isinstance(criterion, nn.Module) else criterion
        value, wide = own(z, y.to(z.dtype) if y.is_floating_point() else y), own
        in_double = False
    else:
        in_double = True
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UnsupportedError(
            f"The criterion must return one number, the mean loss over the samples, but returned "
            f"{shape}: use reduction='mean'."
        )
    return wide, in_double


def _parts_make_the_whole(loss: Loss, z: Tensor, y: Tensor) -> bool:
    """Return whether the gradients of a batch's parts, weighted, are that of the whole.

    By gradients, since the losses of a network that knows nothing yet may be equal by chance.
    """
    whole = _gradient(loss, z, y)
    if not torch.equal(whole, _gradient(loss, z, y)):
        raise UnsupportedError(
            "The criterion gives another gradient at the same outputs each time: draw its random "
            "numbers, and choose its batch, outside of it."
        )
    n, orders = len(y), [torch.arange(len(y), device=y.device)]
    if not y.is_floating_point():  # parts that differ in their classes as much as they can
        orders.append(y.reshape(n, -1)[:, 0].argsort())
    tolerance = 1e-9 if z.dtype == torch.float64 else 1e-4
    scale = float(whole.double().norm())
    for order in orders:
        cuts = sorted({0, n // 7, n // 2, n})
        spans = list(pairwise(cuts))
        ordered = y[order]
        weights = loss.weights(ordered, spans)
        for (start, stop), weight in zip(spans, weights, strict=True):
            at = order[start:stop]
            if weight == 0:
                part = torch.zeros_like(whole[at])
            else:
                try:
                    part = weight * _gradient(loss, z[at], y[at])
                except (RuntimeError, ValueError, IndexError):
                    return False  # it holds something for each sample of the batch
            gap = float((part - whole[at]).double().norm())
            if not gap <= tolerance * scale:
                return False
    return True


def _gradient(loss: Loss, z: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = loss(z, y)
        if not value.requires_grad:
            return torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(value.reshape(()), z, materialize_grads=True)
    return gradient


def _masses(criterion: Criterion) -> Masses | None:
    """Return the masses of torch's own losses by classes, from their weights."""
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        return _counted(criterion.weight, criterion.ignore_index)
    function, options = criterion, {}
    if isinstance(criterion, functools.partial) and not criterion.args:
        function, options = criterion.func, criterion.keywords
    if function in (F.cross_entropy, F.nll_loss):
        return _counted(options.get("weight"), options.get("ignore_index", _IGNORED))
    return None


def _counted(weight: Tensor | None, ignored: int) -> Masses:
    """Weigh each target by its class, those that are ignored by nothing."""

    def masses(y: Tensor) -> Tensor:
        if y.is_floating_point():  # probabilities of classes: the mean is over the samples
            return torch.ones(len(y), dtype=torch.float64, device=y.device)
        counts = y != ignored
        each = counts.double()
        if weight is not None:
            each = each * weight.double().to(y.device)[torch.where(counts, y, 0)]
        return each.reshape(len(y), -1).sum(1)

    return masses


def _even(masses: Tensor) -> bool:
    return bool((masses == masses[0]).all())
