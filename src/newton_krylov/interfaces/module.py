"""Curvature of any `nn.Module`'s loss as linear operators: Hessian, Gauss-Newton, Fisher.

Each is at the module's present weights, which are copied: training the module further changes no
operator. The vectors they multiply are flat, in the order of `named_parameters`, as
`torch.nn.utils.parameters_to_vector` gives them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.graphs import Criterion
from newton_krylov.objectives.network.layout import layers_below, mapped, tensors_of
from newton_krylov.objectives.network.objective import Network
from newton_krylov.objectives.network.point import NetworkPoint
from newton_krylov.operators import LinearOperator

Output = Callable[[Any], Tensor]


def hessian(
    module: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    output: Output | None = None,
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
        (outputs, targets) -> mean loss over the samples, such as `nn.CrossEntropyLoss()`. Class
        weights and ignored targets are reckoned with; where the mean over a batch cannot be had
        from its parts, all samples pass through the network together.
    inputs : Tensor, shape (n, ...), or a tuple or dict of such
        Samples; whole numbers stay whole. A tuple or dict is passed as the arguments of the
        module's `forward`, if it takes them so, and else as one. Or, without `targets`, batches:
        an iterable of (inputs, targets), such as a `DataLoader`, which is read once.
    targets : Tensor, shape (n, ...), optional
        Targets of the inputs. If there are r for each, as where the module returns the rows of n
        sequences, shape (n r, ...), the rows are the data.
    output : callable, optional
        From what the module returns to its outputs, where that is no tensor: such as
        `lambda returned: returned.logits`.
    layers : sequence of str, optional
        Names of the submodules whose weights, and those of their parts, are the variables; by
        default all that have trainable weights (`requires_grad`).
    l2 : float
        Adds l2/2 |w|^2 to the loss, so l2 I to the matrix.
    noise : int, optional
        Seeds the masks of dropout, where the module is in training mode; None turns it off. So
        every product is with one matrix.
    chunk : int, optional
        Samples in one forward pass; by default as many as suit the memory. Batch norm in training
        mode uses the statistics of each pass: by default of all samples.

    Returns
    -------
    LinearOperator
        Symmetric, shape (d, d), d the number of free weights.

    Raises
    ------
    UnsupportedError
        If the criterion does not return a mean; if the module draws random numbers other than
        dropout's, returns what is no tensor, or cannot be differentiated; if a layer's weights are
        trainable in part; or if the samples must pass together and do not fit in memory.

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
    point = _point(module, criterion, inputs, targets, output, layers, l2, noise, chunk)
    return point.hessian()


def gauss_newton(
    module: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    output: Output | None = None,
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
    module, criterion, inputs, targets, output, layers, l2, noise, chunk
        See `hessian`.

    Returns
    -------
    LinearOperator
        Symmetric, shape (d, d).
    """
    return _point(
        module, criterion, inputs, targets, output, layers, l2, noise, chunk
    ).gauss_newton()


def empirical_fisher(
    module: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    output: Output | None = None,
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
    module, criterion, inputs, targets, output, layers, l2, noise, chunk
        See `hessian`.

    Returns
    -------
    LinearOperator
        Symmetric positive semidefinite, shape (d, d).
    """
    return _point(
        module, criterion, inputs, targets, output, layers, l2, noise, chunk
    ).empirical_fisher()


def monte_carlo_fisher(
    module: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    draws: int = 1,
    generator: torch.Generator | None = None,
    output: Output | None = None,
    layers: Sequence[str] | None = None,
    l2: float = 0.0,
    noise: int | None = None,
    chunk: int | None = None,
) -> LinearOperator:
    """Return the Fisher matrix by Monte Carlo plus l2 I, matrix-free.

    The mean over samples of g_i g_i', g_i the gradient of sample i's loss at a target that is
    drawn from the module's own prediction. Its expectation is the Fisher matrix, which for cross
    entropy, logits and mean squares is the Gauss-Newton matrix (Martens, "New insights and
    perspectives on the natural gradient method", 2020). Of a mean over several outputs of a sample
    the draws are scaled so that this holds.

    Parameters
    ----------
    module, criterion, inputs, targets, output, layers, l2, noise, chunk
        See `hessian`. The criterion is cross entropy, negative log-likelihood, binary cross
        entropy or mean squares, without class weights or label smoothing.
    draws : int
        Targets drawn for each sample; the error falls with the root of their number.
    generator : torch.Generator, optional
        On the CPU; by default one with the seed 0.

    Returns
    -------
    LinearOperator
        Symmetric positive semidefinite, shape (d, d); the draws are made once.

    Raises
    ------
    UnsupportedError
        As `hessian`, and for another criterion.
    """
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, not {draws}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    point = _point(module, criterion, inputs, targets, output, layers, l2, noise, chunk)
    return point.monte_carlo_fisher(draws, generator)


def _point(
    module: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Tensor | None,
    output: Output | None,
    layers: Sequence[str] | None,
    l2: float,
    noise: int | None,
    chunk: int | None,
) -> NetworkPoint:
    _check(l2, chunk, layers)
    X, y = _samples(inputs, targets)
    reduction = getattr(criterion, "reduction", "mean")
    if reduction in ("sum", "none"):
        raise UnsupportedError(
            f"the criterion has reduction='{reduction}', but the curvature is of a mean over the "
            f"samples: use reduction='mean' and scale the operator."
        )
    network = Network(
        module, criterion, X, y, output=output, l2=l2, chunk=chunk, together=None, free=True
    )
    if noise is not None:
        everything = torch.arange(network.n_samples, device=network.device)
        network = network.subset(everything, noise=noise)
    free = _trainable(module) if layers is None else layers_below(network.blocks, layers)
    if set(free) != set(network.blocks):
        network = network.restricted(free, network.initial())
    return network.at(network.initial())


def _check(l2: float, chunk: int | None, layers: Sequence[str] | None) -> None:
    """Refuse values that would be something else than they seem."""
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2 must be a number of at least 0, not {l2}")
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a whole number of at least 1, not {chunk}")
    if isinstance(layers, str):
        raise ValueError(f"layers must be a list of names: layers=[{layers!r}]")
    if layers is not None and not layers:
        raise ValueError("layers is empty: name at least one layer")


def _samples(inputs: Any, targets: Tensor | None) -> tuple[Any, Tensor]:
    """Return inputs and targets, those of batches one after the other."""
    if targets is not None:
        if not isinstance(targets, Tensor):
            raise ValueError(f"the targets must be a tensor, not {type(targets).__name__}")
        return _checked(inputs), targets
    if isinstance(inputs, Tensor | dict) or not isinstance(inputs, Iterable):
        raise ValueError("targets are missing: only batches of (inputs, targets) do without")
    batches = [tuple(batch) for batch in inputs]
    if not batches or any(len(batch) != 2 for batch in batches):
        raise ValueError("inputs without targets must be batches of two: (inputs, targets)")
    ones, others = zip(*batches, strict=True)
    parts = [tensors_of(_checked(one)) for one in ones]
    joined = iter([torch.cat(same) for same in zip(*parts, strict=True)])
    return mapped(lambda _: next(joined), ones[0]), torch.cat(others)


def _checked(inputs: Any) -> Any:
    """Refuse inputs whose samples cannot be identified."""
    lengths = {len(t) if t.ndim else None for t in tensors_of(inputs)}
    if not lengths:
        raise ValueError(
            f"the inputs must be a tensor, or a tuple or dict of tensors, not "
            f"{type(inputs).__name__}"
        )
    if len(lengths) > 1:
        raise ValueError(
            f"the inputs have {' and '.join(map(str, sorted(lengths, key=str)))} samples: each "
            f"tensor must have all samples, first"
        )
    return inputs


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
