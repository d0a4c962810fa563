"""The zoo of optimizers: whatever is registered is run on every kind of problem it is for.

An optimizer joins by being registered: its declared needs choose its problems. One whose defaults
do not suit it, or that promises less than an optimum on convex problems, gets a line in `SPECIAL`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import pytest
import small_networks
import torch
from optimizer_parts import make_optimizer, optimum_of, small
from torch.utils._python_dispatch import TorchDispatchMode
from transport_problems import dual
from transport_problems import optimum as transport_optimum

from newton_krylov.capabilities import LAYERS, SAMPLES, SUM_OF_SQUARES, TRANSPORT_DUAL
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import Optimizer, Step
from newton_krylov.records.checkpoint import Checkpoint
from newton_krylov.records.trace import Row
from newton_krylov.registry import entry, names
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.runner import Outcome, Stopping, run

register_parts()


@dataclass(frozen=True)
class Animal:
    """An optimizer with what the shared tests must know of it.

    Attributes
    ----------
    name : str
        As registered.
    options : dict
        Its own, and parts by their parameter's name, where the defaults do not suit the zoo.
    gap : float or None
        Above the optimum of a convex problem after `epochs`; None where it only descends.
    epochs : int
        Steps that it gets.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    gap: float | None = 1e-10
    epochs: int = 300

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.options.values())])

    @property
    def needs(self) -> tuple[str, ...]:
        """What it declares."""
        return entry("optimizer", self.name).needs

    @property
    def stochastic(self) -> bool:
        """Whether it goes through mini-batches."""
        return SAMPLES in self.needs or LAYERS in self.needs or "batch_size" in self.options

    def make(self) -> Optimizer:
        """Build it."""
        return make_optimizer(self.name, **dict(self.options))


BATCHES = {"batch_size": 50}
TAU = ("fixed", {"tau": 0.1})
SPECIAL = [
    Animal("adam", {"learning_rate": 0.02} | BATCHES, gap=None, epochs=40),
    Animal("adahessian", BATCHES, gap=None, epochs=40),
    Animal("adam_lbfgs", {"learning_rate": 0.02, "switch": 4} | BATCHES),
    Animal(
        "adam_lbfgs_nncg",
        {"learning_rate": 0.02, "switch": 4, "second_switch": 3, "rank": 5} | BATCHES,
    ),
    Animal("adamw", {"learning_rate": 0.02} | BATCHES, gap=None, epochs=40),
    Animal("ekfac", BATCHES, gap=None),
    Animal("gd", epochs=3000),
    Animal("kfac", BATCHES, gap=None),
    Animal("muon", {"learning_rate": 0.01} | BATCHES, gap=None),
    Animal("schedule_free_adamw", {"learning_rate": 0.05} | BATCHES, gap=None, epochs=40),
    Animal("shampoo", {"learning_rate": 0.01} | BATCHES, gap=None),
    Animal("soap", {"learning_rate": 0.01} | BATCHES, gap=None),
    Animal("sophia", {"learning_rate": 0.02, "gamma": 0.1} | BATCHES, gap=None, epochs=40),
    Animal(
        "sophia",
        {"learning_rate": 0.02, "gamma": 0.1, "estimator": "gauss_newton_bartlett"} | BATCHES,
        gap=None,
        epochs=40,
    ),
    Animal("layerwise_newton", {"damping": "marquardt"} | BATCHES, gap=None, epochs=8),
    Animal("nesterov", epochs=1000),
    Animal("nncg", {"rank": 5}),
    Animal("sgd", BATCHES, gap=None, epochs=40),
    Animal("sinkhorn", {"thinning": 0.0}, epochs=5000),
    Animal("sinkhorn_newton_sparse", {"curvature": "thresholded_sparse", "solver": "cg"}),
    Animal("sklearn_liblinear", gap=1e-7, epochs=50),
    Animal("sklearn_lbfgs", gap=1e-9, epochs=100),
    Animal("accelerated_newton", {"curvature": ("regularized_subsampled", {"size": 50})}),
    Animal("dynanewton", {"initial": 50}),
    Animal("dynanewton", {"initial": 50, "schedule": "condition"}),
    Animal("saga", BATCHES),
    Animal("svrg", BATCHES),
    Animal("newton", {"damping": "marquardt", "solver": "cg"}),
    Animal("newton", {"damping": "marquardt", "curvature_every": 3, "solver": "cr"}),
    Animal("newton", {"momentum": 0.5, "curvature": "ggn", "damping": TAU} | BATCHES, gap=None),
]
KNOWN = {animal.name for animal in SPECIAL} - {"newton", "accelerated_newton"}
OURS = [
    name
    for name in names("optimizer")
    if entry("optimizer", name).target.__module__.startswith("newton_krylov.")
]
ELSEWHERE = {name for name in OURS if SUM_OF_SQUARES in entry("optimizer", name).needs}
"""Optimizers of problems that the zoo does not have: of residuals, in tests of their own."""
ZOO = [Animal(name) for name in OURS if name not in KNOWN | ELSEWHERE] + SPECIAL
every = pytest.mark.parametrize("animal", ZOO, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convex(animal: Animal) -> tuple[Objective, float]:
    """Return a small convex problem for an optimizer, and its optimal value."""
    if TRANSPORT_DUAL in animal.needs:
        f: Objective = dual()
        return f, f.at(transport_optimum(f)).value  # type: ignore[arg-type]
    data = small()
    return entry("loss", "logistic").build({"l2": 0.01}, dataset=data), optimum_of(data).value


def problem(animal: Animal) -> Objective:
    """Return the problem an optimizer is first of all for."""
    return small_networks.network(0.2) if LAYERS in animal.needs else convex(animal)[0]


def start(f: Objective) -> torch.Tensor:
    return f.initial() if hasattr(f, "initial") else torch.zeros(f.dim, dtype=f.dtype)


def steps(animal: Animal, f: Objective, count: int, seed: int = 0) -> Iterator[Step]:
    """Yield some steps, each evaluated as whoever drives an optimizer does."""
    made = animal.make().steps(f, start(f), generator(seed))
    for step in islice(made, count):
        yield step.evaluated()
    made.close()


def plain(rows: list[Row]) -> list[str]:
    """Return rows without their times; nan is equal to nan in words."""
    return [repr(replace(row, seconds=0.0, step_seconds=0.0)) for row in rows]


def test_every_optimizer_is_in_the_zoo() -> None:
    assert {animal.name for animal in ZOO} | ELSEWHERE == set(OURS)


@every
def test_a_convex_problem_is_solved_to_its_certified_optimum(animal: Animal) -> None:
    if LAYERS in animal.needs:
        pytest.skip("for networks")
    f, optimum = convex(animal)
    stop = Stopping(epochs=animal.epochs, grad_norm=1e-11)
    result = run(animal.make(), f, start(f), stop, generator(), optimum=optimum)
    assert result.outcome not in (Outcome.DIVERGED, Outcome.ERROR), result.reason
    first, last = result.rows[0].suboptimality, result.rows[-1].suboptimality
    assert last < (0.05 * first if animal.gap is None else animal.gap)
    assert last > -1e-10


@every
def test_a_network_is_trained(animal: Animal) -> None:
    net = small_networks.network()
    if animal.needs and not {LAYERS, SAMPLES} & set(animal.needs):
        pytest.skip("not for networks")
    stop = Stopping(epochs=min(animal.epochs, 15))
    result = run(animal.make(), net, net.initial(), stop, generator())
    assert result.outcome not in (Outcome.DIVERGED, Outcome.ERROR), result.reason
    assert result.rows[-1].loss < 0.9 * result.rows[0].loss


@every
def test_the_seed_decides_everything_and_nothing_else_is_drawn(animal: Animal) -> None:
    stop = Stopping(epochs=5)

    def rows(seed: int) -> list[str]:
        f = problem(animal)
        return plain(run(animal.make(), f, start(f), stop, generator(seed)).rows)

    before = torch.get_rng_state()
    once = rows(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert rows(0) == once
    if animal.stochastic:
        assert rows(1) != once


@every
def test_the_start_is_not_changed(animal: Animal) -> None:
    f = problem(animal)
    w0 = start(f)
    kept = w0.clone()
    run(animal.make(), f, w0, Stopping(epochs=3), generator())
    assert torch.equal(w0, kept)


@every
def test_looking_at_a_step_does_none_of_the_optimizer_s_work(animal: Animal) -> None:
    """Metrics are evaluated outside the clock and the counts: they must not save anything."""
    alone, seen = problem(animal), problem(animal)

    def costs(f: Objective, *, look: bool) -> list[dict[str, float]]:
        found = []
        for step in steps(animal, f, 6):
            with f.counts.paused():
                if look:
                    _ = step.point.value, step.point.grad_norm
            found.append(asdict(f.counts))
        return found

    assert repr(costs(seen, look=True)) == repr(costs(alone, look=False))


@every
def test_the_generator_yields_the_start_first_and_goes_on_lazily(animal: Animal) -> None:
    f = problem(animal)
    made = animal.make().steps(f, start(f), generator())
    assert torch.equal(next(made).evaluated().point.w, start(f))
    made.close()


class Kept(list[Checkpoint]):
    """Takes every checkpoint."""

    due = True

    def __call__(self, checkpoint: Checkpoint, /) -> None:
        self.append(checkpoint)


@every
def test_continued_equals_uninterrupted(animal: Animal) -> None:
    """From every checkpoint of a run; an optimizer that makes none says that it cannot go on.

    To rounding: a linear model's margins are carried along a run, and computed where it goes on.
    """
    f, kept = problem(animal), Kept()
    stop = Stopping(epochs=6)
    whole = run(animal.make(), f, start(f), stop, generator(), on_checkpoint=kept)
    if not kept:
        with pytest.raises(UnsupportedError, match="cannot be continued"):
            animal.make().load_state_dict({})
        return
    for checkpoint in kept:
        again = problem(animal)
        result = run(animal.make(), again, start(again), stop, generator(99), resume=checkpoint)
        assert [row.notes for row in result.rows] == [row.notes for row in whole.rows]
        for name in whole.rows[0].metrics():
            if name not in ("seconds", "step_seconds"):
                ours, theirs = ([getattr(row, name) for row in r.rows] for r in (result, whole))
                assert ours == pytest.approx(theirs, rel=1e-7, abs=1e-9, nan_ok=True), name
        torch.testing.assert_close(result.w, whole.w, rtol=1e-9, atol=1e-12)


class DataProducts(TorchDispatchMode):
    """Counts products with a data matrix of n rows: half a pass each, by the share of the rows."""

    PRODUCTS = ("mv", "mm", "addmv_", "addmm_")
    FEWEST = 40  # rows; smaller matrices are bases of Krylov spaces

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.n, self.d, self.passes = n, d, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.PRODUCTS:
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            rows = max(a.shape)
            if min(a.shape) == self.d and rows >= self.FEWEST:
                columns = 1 if b.dim() == 1 else b.shape[1]
                formed = columns == self.d and b.shape[0] == rows  # X'DX reads the data once
                self.passes += rows / self.n * (1.0 if formed else 0.5 * columns)
        return func(*args, **(kwargs or {}))


@every
def test_the_passes_counted_are_those_made(animal: Animal) -> None:
    """Against every product with the data matrix that torch is asked for."""
    if TRANSPORT_DUAL in animal.needs or LAYERS in animal.needs:
        pytest.skip("the data are no matrix")
    f, _ = convex(animal)
    with DataProducts(f.n_samples, f.dim) as made:
        for _ in steps(animal, f, 5):
            pass
    if math.isnan(f.counts.passes) or f.counts.passes == 0:
        pytest.skip("a library that does not tell")
    assert f.counts.passes == pytest.approx(made.passes, rel=1e-12)
