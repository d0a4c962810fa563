"""Curvature of any `nn.Module`'s loss as linear operators: Hessian, Gauss-Newton, Fisher.

Each is at the module's present weights, which are copied: training the module further changes no
operator. The vectors they multiply are flat, in the order of `named_parameters`, as
`torch.nn.utils.parameters_to_vector` gives them.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.graphs import Criterion
from newton_krylov.objectives.network.objective import Network
from newton_krylov.objectives.network.point import NetworkPoint
from newton_krylov.operators import LinearOperator


def hessian(
    module: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    layers: Sequence[str] | None = None,
    l2: float = 0.0,
    noise: int | None = None,
    chunk: int | None = None,
) -> LinearOperator:
    """Return the Hessian of a module's mean loss by its weights, matrix-free.

    Parameters
    ----------
    module : nn.Module
        Takes a batch, samples first. Neither it nor its buffers are changed.
    criterion : callable
        (outputs, targets) -> mean loss over the samples, such as `nn.CrossEntropyLoss()`.
    inputs : Tensor, shape (n, ...)
        Samples.
    targets : Tensor, shape (n, ...)
        Their targets.
    layers : sequence of str, optional
        Names of the submodules whose weights are the variables; by default all that have
        trainable weights (`requires_grad`).
    l2 : float
        Adds l2/2 |w|^2 to the loss, so l2 I to the matrix.
    noise : int, optional
        Seeds the masks of dropout, where the module is in training mode; None turns it off. So
        every product is with one matrix.
    chunk : int, optional
        Samples in one forward pass; by default as many as suit the memory.

    Returns
    -------
    LinearOperator
        Symmetric, shape (d, d), d the number of free weights.

    Raises
    ------
    UnsupportedError
        If the criterion does not return a mean, the module calls a random function other than
        dropout, or a layer's weights are trainable in part.

    Examples
    --------
    >>> import torch
    >>> from newton_krylov import cg, hessian
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(50, 3), torch.randn(50, 1)
    >>> H = hessian(torch.nn.Linear(3, 1, bias=False), torch.nn.MSELoss(), X, y)
    >>> torch.allclose(H.dense(), 2 * X.T @ X / 50, atol=1e-5)
    True
    >>> cg(H, torch.ones(3)).converged
    True
    """
    return _point(module, criterion, inputs, targets, layers, l2, noise, chunk).hessian()


def gauss_newton(
    module: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    layers: Sequence[str] | None = None,
    l2: float = 0.0,
    noise: int | None = None,
    chunk: int | None = None,
) -> LinearOperator:
    """Return the generalized Gauss-Newton matrix J' L J + l2 I, matrix-free.

    J is the derivative of the outputs by the weights, L the Hessian of the mean loss by the
    outputs: positive semidefinite where the criterion is convex, and for cross entropy the Fisher
    information matrix (Martens, "New insights and perspectives on the natural gradient method",
    2020).

    Parameters
    ----------
    module, criterion, inputs, targets, layers, l2, noise, chunk
        See `hessian`.

    Returns
    -------
    LinearOperator
        Symmetric, shape (d, d).
    """
    return _point(module, criterion, inputs, targets, layers, l2, noise, chunk).gauss_newton()


def empirical_fisher(
    module: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    layers: Sequence[str] | None = None,
    l2: float = 0.0,
    noise: int | None = None,
    chunk: int | None = None,
) -> LinearOperator:
    """Return the mean of g_i g_i' over the samples plus l2 I, matrix-free.

    g_i is the gradient of sample i's own loss; none of them is formed. Not the Fisher matrix, and
    not near the Hessian far from a good fit (Kunstner, Balles and Hennig, "Limitations of the
    empirical Fisher approximation for natural gradient descent", 2019).

    Parameters
    ----------
    module, criterion, inputs, targets, layers, l2, noise, chunk
        See `hessian`.

    Returns
    -------
    LinearOperator
        Symmetric positive semidefinite, shape (d, d).
    """
    return _point(module, criterion, inputs, targets, layers, l2, noise, chunk).empirical_fisher()


def _point(
    module: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    layers: Sequence[str] | None,
    l2: float,
    noise: int | None,
    chunk: int | None,
) -> NetworkPoint:
    if len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} inputs, but {len(targets)} targets")
    y = targets.double() if targets.is_floating_point() else targets
    network = Network(module, _in_float64(criterion), inputs, y, l2=l2, chunk=chunk)
    if noise is not None:
        everything = torch.arange(len(inputs), device=inputs.device)
        network = network.subset(everything, noise=noise)
    free = _trainable(module) if layers is None else list(layers)
    if set(free) != set(network.blocks):
        network = network.restricted(free, network.initial())
    return network.at(network.initial())


def _in_float64(criterion: Any) -> Criterion:
    """Let a criterion module's own tensors, such as class weights, meet outputs in float64."""
    if getattr(criterion, "reduction", "mean") != "mean":
        raise UnsupportedError(
            f"the criterion has reduction='{criterion.reduction}', but the curvature is of a mean "
            f"over the samples: use reduction='mean' and scale the operator."
        )
    if isinstance(criterion, nn.Module):
        return copy.deepcopy(criterion).double()
    return criterion  # type: ignore[no-any-return]


def _trainable(module: nn.Module) -> list[str]:
    """Return the layers with trainable weights."""
    flags: dict[str, set[bool]] = {}
    for name, parameter in module.named_parameters():
        flags.setdefault(name.rpartition(".")[0] or name, set()).add(parameter.requires_grad)
    for layer, of_layer in flags.items():
        if len(of_layer) > 1:
            raise UnsupportedError(
                f"some weights of the layer '{layer}' have requires_grad=False and some do not: "
                f"free or freeze whole layers, or name them by `layers`."
            )
    free = [layer for layer, of_layer in flags.items() if of_layer == {True}]
    if not free:
        raise UnsupportedError("the module has no trainable weights: set requires_grad.")
    return free
