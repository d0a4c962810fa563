"""Small networks with data, for the tests of optimizers that train them."""

from collections import OrderedDict

import torch
from torch import nn

from newton_krylov.data.dataset import Split, Table
from newton_krylov.objectives.network.losses import CrossEntropy
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.registry import entry


def fixed(tau: float) -> dict[str, object]:
    """Choose a damping that does not move."""
    return {"name": "fixed", "tau": tau}


def marquardt(tau: float = 1.0, **options: float) -> dict[str, object]:
    """Choose a damping that adapts."""
    return {"name": "marquardt", "tau": tau, **options}


LAYERS = ("first", "middle", "last")


def data(n: int = 90, seed: int = 0) -> Table:
    """Draw three classes around three centres, not separable."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centres = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    X = centres[y] + 1.5 * torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return Table("blobs", Split(X, y), Split(X, y), "multiclass", 3, "drawn", f"blobs-{seed}")


def module(dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """Return a network of three layers, with dropout in front of the last."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    made = nn.Sequential(
        OrderedDict(
            first=nn.Linear(5, 6, bias=False),
            bend=nn.Tanh(),
            middle=nn.Linear(6, 4),
            turn=nn.Softplus(),
            drop=nn.Dropout(dropout),
            last=nn.Linear(4, 3, bias=False),
        )
    ).double()
    torch.random.set_rng_state(state)
    return made


def network(dropout: float = 0.0, l2: float = 0.0, n: int = 90) -> CrossEntropy:
    """Return the objective."""
    return CrossEntropy(data(n), module(dropout), l2=l2, chunk=25)


def optimizer(name: str, *, parts: dict[str, object] | None = None, **options: object) -> Optimizer:
    """Build an optimizer; `parts` names parts by group, such as {"solver": {"name": "exact"}}.

    So do `damping` and `schedule`; the other options are the optimizer's own.
    """
    groups = {key: options.pop(key) for key in ("damping", "schedule") if key in options}
    chosen: dict[str, dict[str, object]] = {
        "solver": {"name": "cg"},
        "hessian_approx": {"name": "ggn"},
        "line_search": {"name": "none"},
        "forcing": {"name": "fixed", "eta": 1e-3},
        "preconditioner": {"name": "none"},
        "damping": {"name": "marquardt" if name == "layerwise_newton" else "fixed"},
        "schedule": {"name": "constant"},
    }
    for group, part in ((parts or {}) | groups).items():
        chosen[group] = {"name": part} if isinstance(part, str) else dict(part)  # type: ignore[call-overload]
    built = {
        "curvature" if group == "hessian_approx" else group: entry(group, str(part["name"])).build(
            part
        )
        for group, part in chosen.items()
    }
    made: Optimizer = entry("optimizer", name).build(options, **built)
    return made
