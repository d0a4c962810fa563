"""Generalized linear models through the one command: own data, exposures, wrong combinations."""

import json

import numpy as np
import pandas as pd
import pytest
from command import command, inside
from sklearn.linear_model import PoissonRegressor

pytestmark = pytest.mark.slow

TABLE = ("dataset=table", "dataset.path=claims.csv", "dataset.target=claims", "tracking=none")
COUNTS = (*TABLE, "dataset.task=regression", "dataset.exposure=years")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    draw = np.random.default_rng(0)
    X, years = draw.normal(size=(400, 3)), draw.uniform(0.2, 3.0, 400)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame["years"] = years
    frame["claims"] = draw.poisson(years * np.exp(X @ [0.5, -0.3, 0.0] - 1))
    frame.to_csv(folder / "claims.csv", index=False)
    return folder


def test_claims_by_exposure_are_scikit_learns(folder):
    out, err = command(
        *COUNTS, "dataset.bias=false", "dataset.scaling=none", "dataset.test_fraction=0.25",
        "loss=poisson", "loss.intercept=free", "loss.l2=0.01", "hydra.run.dir=run", cwd=folder,
    )  # fmt: skip
    assert err == ""
    assert "test D2" in out and "mean absolute test error" in out
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["outcome"] == "converged" and abs(summary["suboptimality"]) < 1e-14
    w = np.load(folder / "run" / "weights.npy")
    from newton_krylov.data import load_dataset

    options = {
        "path": str(folder / "claims.csv"),
        "target": "claims",
        "task": "regression",
        "exposure": "years",
        "bias": False,
        "scaling": "none",
        "test_fraction": 0.25,
    }
    train = load_dataset("table", options).train
    e = np.exp(train.offset.numpy())
    model = PoissonRegressor(alpha=0.01 / e.mean(), tol=1e-10, solver="newton-cholesky")
    model.fit(train.X.numpy(), train.y.numpy() / e, sample_weight=e)
    assert np.allclose(w, np.append(model.coef_, model.intercept_), atol=1e-6)


def test_the_lasso_is_certified(folder):
    inside(
        *COUNTS, "loss=poisson", "loss.l1=0.02", "loss.l2=0", "loss.penalty=[1,1,0.5]",
        "optimizer=proximal_newton", "loss.intercept=free", "dataset.bias=false",
        "hydra.run.dir=lasso", cwd=folder,
    )  # fmt: skip
    summary = json.loads((folder / "lasso" / "summary.json").read_text())
    assert summary["outcome"] == "converged" and abs(summary["suboptimality"]) < 1e-13
    assert summary["optimum_gap_bound"] < 1e-11


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*COUNTS, "loss=least_squares"), "dataset.exposure=years needs a mean that is the expon"),
        ((*COUNTS, "loss=gamma"), "loss=gamma needs targets above 0, and dataset=claims.csv has 0"),
        ((*TABLE, "loss=poisson"), "or dataset.task=regression if they are counts"),
        ((*COUNTS, "loss=poisson", "optimizer=gd"), "the curvature of loss=poisson has no bound"),
        ((*COUNTS, "loss=poisson", "loss.l1=0.1"), "loss.l1=0.1 needs a method for penalties with"),
        ((*COUNTS, "loss=tweedie", "loss.power=0.5"), "loss.power=0.5 is not valid"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(folder, arguments, says):
    _, err = inside(*arguments, cwd=folder, code=2)
    assert says in err
    assert err.strip().count("\n") == 0
