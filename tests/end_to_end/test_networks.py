"""Networks by the command: full-batch Newton and gradient descent, starts, precisions, refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from command import inside

from newton_krylov.models import Interface, initialized
from newton_krylov.models.mlp import mlp
from newton_krylov.report.records import RunRecord, read_records
from newton_krylov.runs.runner import Outcome

DIGITS = ("dataset=digits_images", "loss=cross_entropy", "tracking=none")


@pytest.fixture
def run(tmp_path):
    def started(*arguments: str, name: str = "run") -> RunRecord:
        folder = tmp_path / name
        inside(*arguments, f"hydra.run.dir={folder}", cwd=tmp_path)
        (record,) = read_records([folder])
        return record

    return started


def start_of(record: RunRecord) -> np.ndarray:
    return np.load(record.folder / "weights.npy")


def test_newton_and_gradient_descent_train_a_perceptron_from_one_start(run):
    newton = run(*DIGITS, "model=mlp", "optimizer=newton", "stop.epochs=12", name="newton")
    gd = run(*DIGITS, "model=mlp", "optimizer=gd", "stop.epochs=60", name="gd")
    for record, accuracy in ((newton, 0.93), (gd, 0.90)):
        loss = record.column("loss")
        assert record.column("train_accuracy")[0] < 0.3
        assert record.column("train_accuracy")[-1] > accuracy
        assert record.column("test_accuracy")[-1] > accuracy - 0.04
        assert loss[-1] < 0.3 * loss[0]
    assert newton.column("loss")[0] == gd.column("loss")[0]
    assert (np.diff(newton.column("loss")) <= 0).all()
    # Newton's last row cost what its products cost; gradient descent's, a pass a step.
    passes = newton.column("data_passes")[-1]
    products = newton.column("hvp_count")[-1]
    assert products <= passes <= products + 0.5 * newton.column("function_count")[-1] + 13
    assert np.diff(gd.column("data_passes")) == pytest.approx(1)


def test_a_transformer_and_an_autoencoder_are_trained(run):
    text = run(
        "dataset=text", "dataset.context=16", "dataset.limit=64", "loss=cross_entropy",
        "model=transformer", "model.width=8", "model.heads=2", "model.depth=1",
        "optimizer=newton", "hessian_approx=ggn", "stop.epochs=4", "tracking=none",
    )  # fmt: skip
    assert text.column("loss")[0] == pytest.approx(np.log(68), abs=0.1)
    assert text.column("loss")[-1] < 3.7
    assert (np.diff(text.column("loss")) <= 0).all()
    assert 0 < text.column("train_accuracy")[-1] < 1
    digits = run(
        "dataset=digits_images", "dataset.limit=100", "loss=reconstruction", "tracking=none",
        "model=autoencoder", "model.hidden=[20,5]", "optimizer=newton", "hessian_approx=ggn",
        "stop.epochs=4", name="digits",
    )  # fmt: skip
    assert digits.column("test_loss")[-1] < 0.8 * digits.column("test_loss")[0]


def test_by_iterations_layerwise_gauss_newton_is_ahead_on_a_transformer(run):
    """After eight steps, against the best of the rivals' rates; with the layers' spectra beside."""
    always = (
        "dataset=text", "dataset.context=8", "dataset.limit=128", "loss=cross_entropy",
        "model=transformer", "model.width=8", "model.heads=2", "model.depth=1", "dtype=float32",
        "start=model", "optimum=none", "tracking=none", "checkpoint_seconds=0", "stop.epochs=4",
    )  # fmt: skip
    layerwise = run(
        *always, "method=layerwise_gauss_newton", "damping.tau=0.03", "optimizer.batch_size=64",
        "optimizer.curvature_samples=64", "solver.maxiter=10", "spectrum.every=4",
        "spectrum.blocks=true", "spectrum.of=ggn", "spectrum.top=1", "spectrum.trace=3",
        "spectrum.probes=2", "spectrum.steps=10", "spectrum.samples=32",
    )  # fmt: skip
    rivals = [
        run(*always, f"method={name}", "optimizer.batch_size=64", "schedule=constant",
            "schedule.epochs=1", f"optimizer.learning_rate={rate}", name=f"{name}{rate}")
        for name in ("soap", "muon")
        for rate in (0.03, 0.1, 0.3)
    ]  # fmt: skip
    best = min(record.column("loss")[-1] for record in rivals)
    assert layerwise.column("loss")[-1] < best < 3.5
    blocks = pd.read_csv(layerwise.folder / "spectrum_blocks.csv")
    assert set(blocks["iteration"]) == {0, 4}
    assert {"characters", "blocks.0.attention.qkv"} <= {*blocks["layer"], *blocks["other"]}
    # Zhang et al.: a transformer's layers have spectra of their own; alike would be a mean of 0.
    assert 0.3 < blocks["distance"].mean() <= 1


def test_gauss_newton_by_layers_learns_by_the_floor_of_its_damping(run):
    """Small batches, dropout: judged by the batch it has fitted, the damping sinks without one."""
    always = (
        *DIGITS, "model=paper_cnn", "model.channels=[4,8]", "model.hidden=32", "stop.epochs=2",
        "method=layerwise_gauss_newton", "optimizer.batch_size=32",
    )  # fmt: skip
    floored, sunk = run(*always), run(*always, "damping.lowest=0", name="sunk")
    assert floored.config["damping"]["lowest"] == floored.config["damping"]["tau"]
    assert floored.column("train_accuracy")[-1] > 0.9
    assert sunk.column("train_accuracy")[-1] < 0.3


def test_the_start_is_the_model_s_own_by_the_seed_alone(run):
    records = [
        run(*DIGITS, "model=mlp", "stop.epochs=0", *more, name=str(k))
        for k, more in enumerate(
            [["seed=3"], ["seed=3", "optimizer=gd"], ["seed=4"], ["seed=3", "dtype=float64"]]
        )
    ]
    first, same, other, double = map(start_of, records)
    assert (first == same).all()
    assert (first != other).mean() > 0.9
    assert (first.dtype, double.dtype) == (np.float32, np.float64)
    assert (double == first).all()
    net = initialized(mlp, Interface((1, 8, 8), 10), torch.Generator())
    assert first.shape == (sum(p.numel() for p in net.parameters()),)
    zero = run(*DIGITS, "start=zeros", "stop.epochs=0", name="zeros")
    assert not start_of(zero).any()
    assert zero.column("loss")[0] == pytest.approx(np.log(10))


def test_a_table_and_a_regression_train_as_well(run):
    wine = run("dataset=wine", "loss=cross_entropy", "tracking=none", "stop.epochs=8", name="wine")
    assert wine.column("train_accuracy")[-1] == 1.0
    diabetes = run(
        "dataset=diabetes", "loss=mse", "loss.l2=0.1", "tracking=none", "stop.epochs=15",
        name="diabetes",
    )  # fmt: skip
    loss = diabetes.column("loss")
    assert loss[-1] < 0.5 * loss[0]
    assert np.isnan(diabetes.column("train_accuracy")).all()
    assert np.isfinite(diabetes.column("test_loss")).all()


@pytest.mark.parametrize(
    "method",
    [
        ["optimizer=kfac", "optimizer.adapt_every=5"],
        ["optimizer=newton", "hessian_approx=ggn", "solver=cg", "preconditioner=kfac",
         "damping.tau=0.1"],
        ["method=gauss_newton_samples", "damping.tau=5"],
    ],
    ids=["kfac", "preconditioned", "samples"],
)  # fmt: skip
def test_curvature_by_layers_trains_a_convolutional_network(run, method):
    record = run(
        "dataset=digits_images", "loss=cross_entropy", "model=paper_cnn", "model.channels=[4,4]",
        "model.hidden=16", "line_search=none", "stop.epochs=3", *method,
    )  # fmt: skip
    assert record.summary["outcome"] == Outcome.LIMIT
    assert record.column("loss")[-1] < 0.9 * record.column("loss")[0]


def test_a_network_of_one_linear_layer_is_solved_to_its_optimum(run):
    """A convex problem: Newton's method ends where the gradient vanishes."""
    record = run(
        *DIGITS, "model=mlp", "model.hidden=[]", "loss.l2=0.01", "dtype=float64",
        "stop.grad_norm=1e-9", "stop.epochs=30",
    )  # fmt: skip
    assert record.summary["outcome"] == Outcome.CONVERGED
    assert np.isnan(record.column("suboptimality")).all()
    assert record.column("grad_norm")[-1] <= 1e-9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["loss=logistic", "model=mlp"], "model=mlp needs a loss of networks"),
        (["loss=logistic", "start=model"], "start=model needs a network"),
        (["dataset=digits_images", "loss=multinomial"], "choose loss=cross_entropy"),
        (["dataset=diabetes", "loss=cross_entropy"], "needs classes"),
        (["dataset=digits_images", "loss=mse"], "needs real-valued targets"),
        (["dataset=wine", "loss=cross_entropy", "model=paper_cnn"], "choose model=mlp"),
        ([*DIGITS, "model=mlp", "model.hidden=[0]"], "model.hidden"),
        ([*DIGITS, "loss.chunk=0"], "loss.chunk=0 is not valid"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_sentence(tmp_path, arguments, sentence):
    _, error = inside(*arguments, "tracking=none", cwd=tmp_path, code=2)
    assert sentence in error
