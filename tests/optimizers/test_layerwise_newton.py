"""Newton's method layer by layer: what moves, what does not, and where each step goes."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import pytest
import torch
from problems import assert_close, make
from small_networks import LAYERS, fixed, marquardt, network, optimizer
from torch import nn

from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.network.objective import Network
from newton_krylov.optimizers.layerwise_newton import LayerwiseNewton
from newton_krylov.optimizers.newton import Newton
from newton_krylov.runs.runner import RunResult, Stopping, run

PAPER: dict[str, Any] = {"negative_curvature": "ignore"}
PAPER_PARTS: dict[str, Any] = {
    "solver": "exact",
    "hessian_approx": {"name": "rank1", "negative": "keep"},
    "line_search": {"name": "fixed", "step_size": 0.01},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(
    f: Network, epochs: int = 2, seed: int = 0, parts: dict[str, Any] | None = None, **options: Any
) -> RunResult:
    made = optimizer("layerwise_newton", parts=parts, **({"batch_size": 30} | options))
    return run(made, f, f.initial(), Stopping(epochs=epochs), generator(seed))


def first_batch(f: Network, size: int, seed: int = 0) -> Network:
    """Return the objective of the first mini-batch that a run of this seed meets."""
    return f.subset(torch.randperm(f.n_samples, generator=generator(seed))[:size])


@pytest.mark.parametrize("layers", [["first"], ["middle"], ["last"], ["first", "last"]])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_only_the_chosen_layers_move_bit_for_bit(layers: list[str], dropout: float) -> None:
    f = network(dropout)
    w0, w = f.initial(), trained(f, layers=layers).w
    for layer, block in f.blocks.items():
        if layer in layers:
            assert not torch.equal(w[block], w0[block])
        else:
            assert torch.equal(w[block], w0[block])


def test_all_layers_are_the_default_in_the_network_s_order() -> None:
    f = network()
    by_default, named = trained(f), trained(f, layers=list(LAYERS))
    assert torch.equal(by_default.w, named.w)
    assert not torch.equal(trained(f, layers=list(LAYERS[::-1])).w, named.w)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_step_is_newton_s_on_the_layer_s_own_hessian(layer: str) -> None:
    """Against the dense Gauss-Newton block of the whole network's matrix."""
    f = network()
    w = f.initial()
    made = optimizer(
        "layerwise_newton", parts={"solver": "exact"}, layers=[layer], damping=fixed(0.1),
        batch_size=90, curvature_samples=None,
    )  # fmt: skip
    stepped = run(made, f, w, Stopping(epochs=1), generator()).w
    block = f.blocks[layer]
    point = f.at(w)
    G = point.gauss_newton().dense()[block, block]
    expected = torch.linalg.solve(G + 0.1 * torch.eye(len(G), dtype=G.dtype), -point.grad[block])
    assert_close(stepped[block] - w[block], expected, 1e-8)


def test_layers_take_turns_each_seeing_what_the_one_before_did() -> None:
    f = network()
    both = trained(f, 1, layers=["first", "last"], batch_size=90).w
    first = trained(f, 1, layers=["first"], batch_size=90).w
    assert torch.equal(both[f.blocks["first"]], first[f.blocks["first"]])
    made = optimizer("layerwise_newton", layers=["last"], batch_size=90, curvature_samples=None)
    last = run(made, f, first, Stopping(epochs=1), generator()).w
    assert_close(both[f.blocks["last"]], last[f.blocks["last"]], 1e-10)


@pytest.mark.parametrize("parts", [{}, PAPER_PARTS], ids=["defaults", "paper"])
def test_the_seed_decides_everything(parts: dict[str, Any]) -> None:
    f, options = network(0.5), PAPER | {"damping": fixed(1.0)} if parts else {}
    once, again = (trained(f, parts=parts, curvature_samples=10, **options) for _ in range(2))
    assert torch.equal(once.w, again.w)
    assert [row.loss for row in once.rows] == [row.loss for row in again.rows]
    assert not torch.equal(trained(f, seed=1, parts=parts, **options).w, once.w)


def test_the_paper_s_step_is_sherman_morrison_s() -> None:
    """0.01 (lambda v v' + tau I)^-1 g, indefinite or not, with no look at what it does."""
    f, tau = network(), 0.05
    w, block = f.initial(), f.blocks["first"]
    batch = first_batch(f, 90)
    H = batch.at(w).hessian().dense()[block, block]
    values, vectors = torch.linalg.eigh(H)
    top = int(values.abs().argmax())
    rank1 = values[top] * torch.outer(vectors[:, top], vectors[:, top])
    g = batch.at(w).grad[block]
    expected = -0.01 * torch.linalg.solve(rank1 + tau * torch.eye(len(g), dtype=g.dtype), g)
    parts = PAPER_PARTS | {
        "hessian_approx": {"name": "rank1", "negative": "keep", "rtol": 1e-10, "maxiter": 300}
    }
    result = trained(
        f, 1, parts=parts, layers=["first"], batch_size=90, damping=fixed(tau),
        curvature_samples=None, **PAPER,
    )  # fmt: skip
    assert_close(result.w[block] - w[block], expected, 1e-7)


@pytest.mark.parametrize("curvature", ["hvp", "ggn"])
def test_large_damping_makes_every_layer_s_step_its_gradient_step(curvature: str) -> None:
    f, tau = network(), 1e7
    w = f.initial()
    result = trained(
        f, 1, parts={"hessian_approx": curvature}, damping=fixed(tau),
        batch_size=90, curvature_samples=None,
    )  # fmt: skip
    assert_close((result.w - w) * tau, -f.at(w).grad, 1e-5)


def test_a_step_that_raises_the_batch_s_loss_is_refused() -> None:
    f = network()
    options: dict[str, Any] = {"layers": ["middle"], "batch_size": 90}
    options["damping"] = marquardt(1e-8, factor=1.5)
    losses = [row.loss for row in trained(f, 30, **options).rows]
    assert all(b <= a for a, b in pairwise(losses))
    rows = trained(f, 5, parts={"hessian_approx": "hvp"}, **options).rows
    refused = [row for row in rows if "step refused" in row.note]
    assert all(row.step_size == 0.0 for row in refused)


def test_the_last_layer_s_problem_is_convex_and_solved() -> None:
    f = network(l2=0.01)
    result = trained(
        f,
        12,
        layers=["last"],
        batch_size=90,
        curvature_samples=None,
        damping=marquardt(1e-3),
    )
    alone = f.restricted(["last"], f.initial())
    assert alone.convexity == 0.01
    block = f.blocks["last"]
    assert alone.at(result.w[block]).grad_norm < 1e-5


def test_without_a_floor_the_damping_sinks_whatever_its_steps_are_worth_elsewhere() -> None:
    """The targets are noise, and on each batch the model is exact: its gain ratio is 1."""
    X = torch.randn(400, 30, generator=generator(1)).double()
    y = torch.randn(400, 1, generator=generator(2)).double()
    f = Network(nn.Sequential(nn.Linear(30, 1, bias=False)).double(), nn.MSELoss(), X, y)
    grown = {}
    for lowest in (0.0, 20.0):
        made = optimizer(
            "layerwise_newton", damping=marquardt(20.0, lowest=lowest), batch_size=20,
            curvature_samples=None,
        )  # fmt: skip
        rows = run(made, f, 0 * f.initial(), Stopping(epochs=1), generator()).rows
        (layer,) = made.state_dict()["layers"].values()
        assert layer["damping"]["tau"] == max(20 / 2**20, lowest)
        grown[lowest] = rows[-1].loss / rows[0].loss
    assert grown[0.0] > 2 > 1.2 > grown[20.0]


@pytest.mark.parametrize("name", ["layerwise_newton", "newton"])
def test_on_mini_batches_the_damping_falls_to_a_tenth_unless_another_floor_is_chosen(
    name: str,
) -> None:
    def lowest(batch_size: int | None, **options: float) -> float:
        made = optimizer(name, damping=marquardt(5.0, **options), batch_size=batch_size)
        assert isinstance(made, LayerwiseNewton | Newton)
        memory = made.memory(f, f.initial())
        own = memory.step if isinstance(made, Newton) else memory.layers["last"]
        return own.damping.lowest

    f = network()
    assert lowest(30) == 0.5
    assert lowest(30, lowest=0.0) == 0.0 and lowest(30, lowest=2.0) == 2.0
    assert lowest(f.n_samples) == 0.0  # the step is judged by all there is


def test_training_learns() -> None:
    f = network(n=300)
    for parts in ({}, {"hessian_approx": "lowrank", "solver": "exact"}):
        rows = trained(f, 8, parts=parts, batch_size=60, curvature_samples=30).rows
        assert rows[-1].loss < 0.8 * rows[0].loss


def test_damping_is_each_layer_s_own_and_told() -> None:
    f = network()
    note = trained(f, 3).rows[-1].note
    assert all(f"{layer} damping " in note for layer in LAYERS)
    made = optimizer("layerwise_newton", batch_size=30)
    assert isinstance(made, LayerwiseNewton)
    run(made, f, f.initial(), Stopping(epochs=4), generator())
    taus = {m["damping"]["tau"] for m in made.state_dict()["layers"].values()}
    assert len(taus) > 1


def test_mistakes_are_named() -> None:
    f = network()
    with pytest.raises(ConfigError, match="'midle' is not a layer of the network; did you mean"):
        trained(f, layers=["midle"])
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        trained(f, layers=[])
    linear = make("logistic")
    with pytest.raises(UnsupportedError, match="choose loss=cross_entropy"):
        w0 = torch.zeros(linear.dim, dtype=linear.dtype)
        run(optimizer("layerwise_newton"), linear, w0, Stopping(epochs=1), generator())


def nested() -> Network:
    """A network with containers in containers."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Sequential(nn.Linear(5, 4), nn.Tanh())
    )
    module = nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(4, 3))).double()
    X = torch.randn(90, 6, dtype=torch.float64)
    return Network(module, nn.CrossEntropyLoss(), X, torch.randint(3, (90,)))


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["encoder"], ["encoder.0.0", "encoder.1.0"]),
        (["encoder.1"], ["encoder.1.0"]),
        (["head", "encoder"], ["head", "encoder.0.0", "encoder.1.0"]),
        (["encoder.1.0", "encoder"], ["encoder.1.0", "encoder.0.0"]),
    ],
)
def test_a_container_stands_for_the_layers_in_it(names: list[str], layers: list[str]) -> None:
    f = nested()
    w0, w = f.initial(), trained(f, layers=names).w
    assert torch.equal(w, trained(f, layers=layers).w)
    moved = {name for name, block in f.blocks.items() if not torch.equal(w[block], w0[block])}
    assert moved == set(layers)
    whole, parts = f.restricted(names, w0), f.restricted(layers, w0)
    assert whole.blocks == parts.blocks and set(whole.blocks) == set(layers)


def test_containers_are_among_the_names_suggested() -> None:
    sentence = (
        r"^optimizer\.layers: 'encodr' is not a layer of the network; did you mean 'encoder'\? "
        r"Choices: encoder, encoder\.0, encoder\.0\.0, encoder\.1, encoder\.1\.0, head$"
    )
    with pytest.raises(ConfigError, match=sentence):
        trained(nested(), layers=["encodr"])
