"""No method mixes a device's tensors with the processor's: tried without one.

A tensor that says it is on torch's device `meta`, and holds its numbers on the processor, takes
part in every operation as one on a GPU would: beside tensors of the processor it is an error, but
for single numbers and for indices.
"""

import copy
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import small_networks
import torch
from optimizer_parts import make_optimizer, small
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.network.objective import Network
from newton_krylov.registry import entry

DEVICE = torch.device("meta")


class Elsewhere(Tensor):
    """A tensor of the processor that says it is on the device."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), dtype=inside.dtype, device=DEVICE,
            storage_offset=inside.storage_offset(),
        )  # fmt: skip
        made.inside = inside
        return made

    def new_tensor(self, data: Any, **options: Any) -> "Elsewhere":
        return Elsewhere(torch.tensor(data, **{"dtype": self.dtype} | options))

    def tolist(self) -> Any:
        return self.inside.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _called(function, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Lets tensors be made on the device, and moved there."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _called(function, args, kwargs or {})


def _called(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    there = [t for t in given if isinstance(t, Elsewhere)]
    own, named = tree_map(_inside, args), tree_map(_inside, kwargs)
    target = named.get("device")
    aimed = target is not None and torch.device(target) == DEVICE
    packet = function.overloadpacket
    if target is not None:
        named["device"] = "cpu"
    if packet is torch.ops.aten._to_copy:
        made = function(*own, **named)
        return Elsewhere(made) if aimed or (target is None and there) else made
    indexed = packet in (torch.ops.aten.index, torch.ops.aten.index_put_)
    here = [t for t in given if not isinstance(t, Elsewhere) and t.ndim > 0]
    if there and here and not indexed and packet is not torch.ops.aten.copy_:
        raise AssertionError(f"{function} of tensors of the device and of the processor")
    if (there or aimed) and named.get("generator") is not None:
        raise AssertionError(f"{function} on the device by a generator of the processor")
    found = function(*own, **named)
    if not (there or aimed):
        return found
    known = {id(_inside(t)): t for t in given}
    return tree_map(lambda t: known[id(t)] if id(t) in known else _outside(t), found)


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, Elsewhere) else value


def _outside(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, Tensor) else value


def logistic(there: bool) -> Objective:
    data = small()
    return entry("loss", "logistic").build({"l2": 0.01}, dataset=data.to(DEVICE) if there else data)


def network(there: bool) -> Objective:
    f = small_networks.network()
    X, y = f.passes.inputs.X, f.passes.y
    net, criterion = copy.deepcopy(f._module), nn.CrossEntropyLoss()
    return (
        Network(net, criterion, X.to(DEVICE), y.to(DEVICE), l2=f.l2, chunk=30)
        if there
        else (Network(net, criterion, X, y, l2=f.l2, chunk=30))
    )


BATCHES = {"batch_size": 30}
TAU = {"damping": ("fixed", {"tau": 0.1})}
METHODS: list[tuple[Callable[[bool], Objective], str, dict[str, Any]]] = [
    *((network, name, BATCHES) for name in ("adamw", "muon", "shampoo", "soap", "sophia",
       "adahessian", "schedule_free_adamw", "kfac", "ekfac")),
    *((make, name, {}) for make in (logistic, network) for name in ("lbfgs", "trust_region")),
    *((make, "newton", {"solver": name, **TAU}) for make in (logistic, network)
      for name in ("cg", "gmres", "minres_qlp", "exact")),
    *((logistic, name, BATCHES) for name in ("saga", "svrg")),
    *((network, "newton", {"curvature": name, **TAU}) for name in ("ggn", "lowrank")),
    (logistic, "newton", {"preconditioner": "nystrom", "solver": "cg"}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "options"), METHODS)
def test_a_method_stays_on_its_device(
    make: Callable[[bool], Objective], name: str, options: dict[str, Any]
) -> None:
    def ended(f: Objective) -> Tensor:
        w = torch.zeros(f.dim, dtype=f.dtype).to(f.device) + 0.01
        steps = make_optimizer(name, **options).steps(f, w, torch.Generator().manual_seed(0))
        return [step.evaluated().point.w for step in islice(steps, 3)][-1]

    expected = ended(make(False))
    with Pretending():
        found = ended(make(True))
        assert isinstance(found, Elsewhere)
    assert torch.allclose(found.inside, expected, rtol=1e-6, atol=1e-8)
