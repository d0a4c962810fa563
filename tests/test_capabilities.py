"""What parts declare of one another is checked before any data is loaded, a third party's too."""

from dataclasses import replace

import pytest
import torch
from small_networks import network
from test_configurations import composed

from newton_krylov import registry
from newton_krylov.capabilities import (
    ALL_SAMPLES,
    LAYERS,
    SAMPLED_HESSIAN,
    SAMPLES,
    refuse_unmet,
)
from newton_krylov.data import load_dataset
from newton_krylov.errors import CombinationError
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.objectives.network.objective import Network
from newton_krylov.objectives.residual.loss import ResidualLoss
from newton_krylov.registry import register
from newton_krylov.runs.config import check

REFUSED = [
    (["optimizer=saga", "loss=cross_entropy"], "optimizer=saga needs a linear model"),
    (["optimizer=layerwise_newton"], "needs a network's layers, which loss=logistic does not"),
    (["optimizer=sinkhorn"], "choose loss=entropic_transport with dataset=transport"),
    (["loss=entropic_transport"], "needs a transport problem, which dataset=synthetic"),
    (["dataset=transport"], "loss=logistic needs a table of features, which dataset=transport"),
    (["dataset=digits_images"], "loss=logistic needs a table of features"),
    (["dataset=transport", "loss=cross_entropy"], "needs samples with targets"),
    (
        ["hessian_approx=sketched", "loss=cross_entropy"],
        "hessian_approx=sketched needs a Hessian of the form X'DX",
    ),
    (["preconditioner=subsampled", "hessian_approx=exact"], "a Hessian that is a sum over samples"),
    (
        ["dataset=transport", "loss=entropic_transport", "hessian_approx=subsampled"],
        "hessian_approx=subsampled needs a mean over samples",
    ),
    (
        ["dataset=transport", "loss=entropic_transport", "optimizer.batch_size=10"],
        "optimizer.batch_size=10 needs a mean over samples",
    ),
    (
        ["loss=cross_entropy", "hessian_approx.dtype=float32"],
        "hessian_approx.dtype=float32 needs a linear model",
    ),
    (["optimizer=sklearn_lbfgs", "loss=squared_hinge"], "scikit-learn's LogisticRegression"),
    (
        ["dataset=transport", "loss=entropic_transport", "device=distributed"],
        "device=distributed needs a mean over samples",
    ),
    (
        ["loss=cross_entropy", "spectrum.every=1", "spectrum.of=leverage_subsampled"],
        "hessian_approx=leverage_subsampled needs",
    ),
]


def problem(*overrides):
    return check(composed("dataset=synthetic", *overrides))


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=lambda x: str(x)[:50])
def test_what_does_not_fit_is_refused_before_any_data_is_loaded(overrides, message):
    with pytest.raises(CombinationError) as refused:
        problem(*overrides)
    assert message in str(refused.value)
    assert "choose" in str(refused.value)


@pytest.mark.parametrize(
    "choice",
    ["optimizer=saga", "optimizer=svrg", "optimizer=dynanewton", "optimizer=sklearn_lbfgs"]
    + [f"hessian_approx={name}" for name in ("sketched", "leverage_subsampled")]
    + ["hessian_approx=thresholded_sparse", "preconditioner=subsampled"],
)
def test_parts_that_need_all_samples_are_refused_where_processes_share_them(choice):
    problem(choice)
    with pytest.raises(CombinationError, match="needs all samples in one process"):
        problem(choice, "device=distributed")


def test_a_part_that_is_not_used_needs_nothing():
    problem("optimizer=gd", "hessian_approx=sketched", "device=distributed")
    problem("solver=exact", "preconditioner=subsampled", "hessian_approx=exact")


@pytest.fixture
def strangers():
    """A third party's optimizer and curvature that agree on words of their own."""

    @register("optimizer", "stranger", needs=(ALL_SAMPLES, "a wish"))
    class Stranger:
        def __init__(self, curvature: object) -> None: ...

    @register("hessian_approx", "strange", offers=("a wish",))
    class Strange: ...

    return Stranger, Strange


@pytest.mark.usefixtures("strangers")
def test_a_third_party_s_parts_take_part():
    chosen = problem().entries | {"optimizer": registry.entry("optimizer", "stranger")}
    with pytest.raises(CombinationError, match="needs a wish, which hessian_approx=hvp does not"):
        refuse_unmet(chosen)
    chosen["hessian_approx"] = registry.entry("hessian_approx", "strange")
    refuse_unmet(chosen)
    chosen["device"] = registry.entry("device", "distributed")
    with pytest.raises(CombinationError, match="optimizer=stranger needs all samples"):
        refuse_unmet(chosen)


def test_a_need_that_nothing_offers_is_no_secret():
    saga = replace(registry.entry("optimizer", "saga"), needs=("a linear modell",))
    with pytest.raises(CombinationError, match="modell, which no part of this run offers"):
        refuse_unmet(problem().entries | {"optimizer": saga})


@pytest.mark.parametrize(
    ("overrides", "sentences"),
    [
        (
            ["optimizer=sgd", "solver=gmres", "preconditioner=nystrom"],
            [
                "optimizer=sgd does not use solver=gmres and preconditioner=nystrom: "
                "these change nothing."
            ],
        ),
        (
            ["solver=exact", "preconditioner=nystrom"],
            ["solver=exact does not use preconditioner=nystrom: this changes nothing."],
        ),
        (
            ["optimizer=lbfgs", "solver.maxiter=5", "hessian_approx=ggn"],
            [
                "optimizer=lbfgs does not use solver.maxiter=5 and hessian_approx=ggn: "
                "these change nothing."
            ],
        ),
        (["optimizer=gd", "preconditioner=none", "line_search=none"], []),
        (["optimizer=newton", "solver=gmres", "preconditioner=nystrom", "forcing=fixed"], []),
        (["optimizer=sgd"], []),
        (
            ["schedule=linear", "schedule.epochs=3"],
            [
                "optimizer=newton with optimizer.batch_size=null does not use schedule=linear and "
                "schedule.epochs=3: these change nothing."
            ],
        ),
        (["schedule=linear", "optimizer.batch_size=64"], []),
        (["optimizer=sgd", "schedule=linear"], []),
        (
            ["optimizer=lbfgs", "damping.tau=1", "schedule=cosine"],
            [
                "optimizer=lbfgs does not use damping.tau=1 and schedule=cosine: these change "
                "nothing."
            ],
        ),
        (
            ["damping=levenberg_marquardt", "line_search=strong_wolfe"],
            [
                "damping=levenberg_marquardt does not use line_search=strong_wolfe: this changes "
                "nothing."
            ],
        ),
        (["damping=marquardt", "line_search=strong_wolfe"], []),
    ],
)
def test_explicit_choices_that_change_nothing_are_named(overrides, sentences):
    assert problem(*overrides).unused(overrides) == sentences


CURVATURES = registry.names("hessian_approx")


@pytest.mark.parametrize("name", CURVATURES)
def test_what_a_curvature_declares_is_true(name):
    part = registry.entry("hessian_approx", name)
    if LAYERS in part.needs:
        f = network()
    else:
        data = load_dataset("breast_cancer")
        f = registry.entry("loss", "logistic").build({"l2": 0.1}, dataset=data)
    A = part.build({}).at(f.at(torch.zeros(f.dim, dtype=f.dtype)), torch.Generator().manual_seed(0))
    sampled = A.sampled(10, torch.Generator().manual_seed(0))
    assert (sampled is not None) == (SAMPLED_HESSIAN in (part.offers or ()))


@pytest.mark.parametrize("name", registry.names("loss"))
def test_what_a_loss_declares_is_true(name):
    target = registry.entry("loss", name).target
    offers = registry.entry("loss", name).offers
    assert LAYERS not in (offers or ()) or hasattr(target, "restricted")
    means = isinstance(target, type) and issubclass(target, LinearModel | Network | ResidualLoss)
    assert (SAMPLES in (offers or ())) == means


def test_what_a_run_does_not_use_is_named_by_group_and_by_key():
    from newton_krylov.capabilities import idle

    def chosen(**names):
        return {group: registry.entry(group, name) for group, name in names.items()}

    common = {"solver": "cg", "line_search": "armijo", "preconditioner": "jacobi"}
    lbfgs = idle(chosen(optimizer="lbfgs", hessian_approx="hvp", **common))
    assert {"solver", "hessian_approx", "preconditioner"} <= set(lbfgs)
    newton = idle(chosen(optimizer="newton", hessian_approx="hvp", **common))
    assert not {"solver", "hessian_approx", "preconditioner", "line_search"} & set(newton)
    peer = idle(chosen(optimizer="scipy_lbfgsb", hessian_approx="hvp", **common))
    assert {"solver", "hessian_approx", "line_search"} <= set(peer)  # no armijo, cg, hvp
    assert idle(chosen(optimizer="sgd", schedule="constant")) == ["schedule.epochs"]
    assert idle(chosen(optimizer="sgd", schedule="linear")) == []
