"""The data set as a sum of kinds: what every kind can do, and that a further kind fits in."""

from dataclasses import dataclass, replace

import pytest
import torch

from newton_krylov.data import Dataset, ImageSet, Split, Table, TransportProblem, load_dataset
from newton_krylov.objectives.base import Counts, Objective, Point, Ray
from newton_krylov.operators import MatrixOperator
from newton_krylov.registry import register

KINDS = {
    "iris": (Table, {}, (120, 4, 480, "multiclass")),
    "digits_images": (ImageSet, {"limit": 50}, (50, 64, 3200, "multiclass")),
    "transport": (TransportProblem, {"n": 6}, (6, 6, 36, "transport")),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_facts_a_device_and_float64(name):
    kind, options, facts = KINDS[name]
    data = load_dataset(name, options, dtype=torch.float32)
    assert type(data) is kind
    assert tuple(data.facts().values()) == facts
    assert data.to(torch.device("cpu")).checksum == data.checksum
    assert data.double().splits[1] is None
    tensors = [x for x in vars(data.double()).values() if isinstance(x, torch.Tensor)]
    tensors += [split.X for split in data.double().splits if split is not None]
    assert all(x.dtype == torch.float64 for x in tensors) and tensors


def test_the_most_frequent_class_is_named_where_classes_are_unequal():
    y = torch.tensor([0, 0, 0, 1])
    weights = torch.tensor([0.5, 0.5, 0.5, 2.5], dtype=torch.float64)
    train, test = Split(torch.ones(4, 1), y, weights), Split(torch.ones(2, 1), y[2:])
    data = Table("t", train, test, "binary", 2, "", "", classes=("no", "yes"))
    assert data.majority == {"class": "'no'", "share": 0.375, "test_share": 0.5}
    unnamed = replace(data, test=None, classes=())
    assert unnamed.majority == {"class": "class 0", "share": 0.375}
    assert replace(data, train=Split(torch.ones(4, 1), torch.arange(4) % 2)).majority is None
    assert load_dataset("diabetes").majority is None


def test_weights_go_with_their_split():
    split = Split(torch.ones(2, 1), torch.zeros(2), torch.tensor([0.5, 1.5]))
    assert split.double().weights.dtype == torch.float64
    assert torch.equal(split.to(torch.device("cpu")).weights, split.weights)


@dataclass(frozen=True)
class Points(Dataset):
    """A further kind: the places where a residual is to vanish."""

    name: str
    places: torch.Tensor
    source: str = "a test"
    checksum: str = "points"

    kind = "points"

    def to(self, device):
        return replace(self, places=self.places.to(device))

    def double(self):
        return replace(self, places=self.places.double())

    def facts(self):
        n = len(self.places)
        return {"n_samples": n, "n_features": 1, "nnz": n, "task": "residuals"}


class Fit(Objective):
    """|w - mean of the places|^2 / 2: a loss that takes such data, and none else."""

    def __init__(self, dataset: Dataset) -> None:
        assert isinstance(dataset, Points)
        self.target = dataset.places.mean()[None]
        self.dim, self.n_samples, self.counts, self.convexity = 1, 1, Counts(), 1.0
        self.dtype, self.device = dataset.places.dtype, dataset.places.device

    def at(self, w):
        return FitPoint(self, w)

    def subset(self, index):
        return self


class FitPoint(Point):
    @property
    def value(self):
        return float((self.w - self.objective.target).square().sum() / 2)

    @property
    def grad(self):
        return self.w - self.objective.target

    def hessian(self):
        return MatrixOperator(torch.eye(1, dtype=self.w.dtype))

    def ray(self, p):
        return FitRay(self, p)


class FitRay(Ray):
    def point(self, alpha):
        return self.origin.objective.at(self.origin.w + alpha * self.p)


def test_a_run_takes_a_further_kind(tmp_path, monkeypatch):
    """With a data set and a loss of one's own, the whole run works: optimum, record, figures."""
    from test_configurations import composed

    from newton_krylov.runs.experiment import Job, run_experiment

    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path / "cache"))

    @register("dataset", "places", offers=("residuals",))
    def places(*, dtype: torch.dtype = torch.float64) -> Points:
        """Three points."""
        return Points("places", torch.tensor([1.0, 2.0, 6.0], dtype=dtype))

    register("loss", "fit", needs=("residuals",))(Fit)
    plain = composed("tracking=none", "solver=exact") | {
        "dataset": {"name": "places"},
        "loss": {"name": "fit"},
    }
    summary = run_experiment(plain, Job(tmp_path / "run", [], tmp_path)).summary
    assert (summary["outcome"], summary["suboptimality"]) == ("converged", 0.0)
    assert summary["dataset"]["task"] == "residuals"
    assert (tmp_path / "run" / "figures" / "run.png").exists()
