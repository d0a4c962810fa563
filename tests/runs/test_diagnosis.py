"""What is measured of a problem, against dense linear algebra."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from problems import randn

from newton_krylov.data.dataset import Split, Table
from newton_krylov.objectives.logistic import Logistic
from newton_krylov.objectives.multinomial import Multinomial
from newton_krylov.runs import diagnosis
from newton_krylov.runs.diagnosis import diagnose


def test_spectrum_and_noise_are_those_of_the_dense_matrices() -> None:
    X = randn(200, 6, seed=1) * torch.tensor([10.0, 5.0, 1.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    y = (randn(200, seed=2) > 0).long()
    data = Table("made-up", Split(X, y), None, "binary", 2, "synthetic", "0")
    f = Logistic(data, l2=0.01)
    start, end = torch.zeros(6, dtype=torch.float64), 0.1 * randn(6, seed=3)
    facts = diagnose(f, data, start, end)

    H = f.at(end).hessian().dense()
    values = torch.linalg.eigvalsh(H)
    assert facts["parameters"] == 6 and facts["samples"] == 200 and facts["dtype"] == "float64"
    assert abs(facts["largest_eigenvalue"] / float(values[-1]) - 1) < 1e-2
    assert abs(facts["condition_number"] / float(values[-1] / values[0]) - 1) < 5e-2
    assert abs(facts["effective_dimension"] / float(H.trace() / values[-1]) - 1) < 5e-2
    assert facts["negative_curvature"] is False

    G = X * (torch.sigmoid(X @ start) - y)[:, None]  # a gradient a row
    g = G.mean(0)
    noise = float((G - g).square().sum(1).mean() / (g @ g))
    assert abs(facts["gradient_noise_scale"] / noise - 1) < 5e-2
    assert facts["product_in_gradients"] > 0


def test_directions_in_which_the_loss_is_flat_are_counted_and_left_out() -> None:
    """Intercepts of many classes without a penalty: a common constant changes nothing."""
    X, y = randn(150, 4, seed=1), torch.arange(150) % 3
    data = Table("made-up", Split(X, y), None, "multiclass", 3, "synthetic", "0")
    f = Multinomial(data, l2=0.1, intercept="free")
    end = 0.1 * randn(f.dim, seed=3)
    facts = diagnose(f, data, torch.zeros(f.dim, dtype=torch.float64), end)
    values = torch.linalg.eigvalsh(f.at(end).hessian().dense())
    assert abs(values[0]) < 1e-15 < values[1]
    assert facts["flat_directions"] == 1 and facts["negative_curvature"] is False
    assert abs(facts["condition_number"] / float(values[-1] / values[1]) - 1) < 1e-6


def test_what_the_time_does_not_suffice_for_is_left_out_and_named() -> None:
    X = randn(80, 600, seed=1)
    data = Table("made-up", Split(X, (randn(80, seed=2) > 0).long()), None, "binary", 2, "s", "0")
    f = Logistic(data, l2=0.01)
    w = torch.zeros(600, dtype=torch.float64)
    whole, none = diagnose(f, data, w, w), diagnose(f, data, w, w, seconds=0.0)
    assert "left_out" not in whole and whole["effective_dimension"] > 0
    assert none["left_out"] == ["spectrum", "cost of a product", "gradient noise scale"]
    assert {key: none[key] for key in ("parameters", "samples", "dtype")} == {
        "parameters": 600, "samples": 80, "dtype": "float64",
    }  # fmt: skip
    assert "largest_eigenvalue" not in none


def test_no_measurement_begins_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a second later."""
    seconds = count()
    monkeypatch.setattr(diagnosis, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    done: list[int] = []
    diagnosis._seconds(lambda: done.append(1), torch.device("cpu"), end=3)
    assert len(done) == 1 + 4  # the first call, and those that began at 0 to 3
    with pytest.raises(diagnosis._TimeOver):
        diagnosis._seconds(lambda: done.append(1), torch.device("cpu"), end=3)
    assert len(done) == 6
