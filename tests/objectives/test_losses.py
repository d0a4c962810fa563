"""Every loss against autograd on the textbook formula, dense and sparse, in both precisions."""

import mpmath
import pytest
import torch
from problems import (
    BY_NAME,
    CONVEX_LOSSES,
    DTYPES,
    LOSSES,
    assert_close,
    make,
    make_dataset,
    plain,
    randn,
    ulps,
)

from newton_krylov.data.dataset import Split
from newton_krylov.errors import ConfigError
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.registry import entry, names

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_layout = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def test_the_zoo_holds_every_registered_loss_of_a_linear_model():
    registered = {
        name for name in names("loss") if issubclass(entry("loss", name).target, LinearModel)
    }
    assert registered == set(BY_NAME)


@pytest.fixture(params=LOSSES, ids=str)
def case(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["dense", "sparse"])
def f(request, case, dtype, device):
    return make(case, sparse=request.param, dtype=dtype, device=device)


@pytest.fixture
def w(f):
    return randn(f.dim, seed=11, dtype=f.dtype, device=f.device)


@pytest.fixture
def hessian(case, f, w):
    """The dense Hessian by autograd, twice through the textbook formula."""
    return torch.func.hessian(plain(case, f))(w.double())


def test_value_and_gradient_are_those_of_the_formula(case, f, w):
    gradient, value = torch.func.grad_and_value(plain(case, f))(w.double())
    point = f.at(w)
    assert_close(point.value, value, ulps(f.dtype, 20))
    assert_close(point.grad, gradient, ulps(f.dtype))
    assert point.grad_norm == pytest.approx(float(point.grad.norm()), rel=1e-6)
    assert (point.grad.dtype, point.grad.device.type) == (f.dtype, f.device.type)


def test_hessian_in_all_its_forms_is_that_of_autograd(f, w, hessian):
    H, rtol = f.at(w).hessian(), ulps(f.dtype)
    V = randn(f.dim, 3, seed=12, dtype=f.dtype, device=f.device)
    assert_close(H @ V[:, 0], hessian @ V[:, 0].double(), rtol, "product")
    assert_close(H @ V, hessian @ V.double(), rtol, "products")
    assert_close(H.dense(), hessian, rtol, "matrix")
    assert_close(H.diagonal(), hessian.diagonal(), rtol, "diagonal")


def test_the_hessian_matrix_is_exactly_symmetric(f, w):
    H = f.at(w).hessian().dense()
    assert torch.equal(H, H.T)


def test_products_are_symmetric_up_to_rounding(f, w):
    H = f.at(w).hessian()
    u, v = randn(2, f.dim, seed=13, dtype=f.dtype, device=f.device)
    scale = float(u.norm() * (H @ v).norm())
    assert abs(float(u @ (H @ v) - v @ (H @ u))) <= ulps(f.dtype, 50) * scale


def test_operators_do_not_touch_what_they_are_given(f, w):
    before = w.clone()
    point = f.at(w)
    H, v = point.hessian(), randn(f.dim, seed=14, dtype=f.dtype, device=f.device)
    kept, Z = v.clone(), point.Z.clone()
    first = H @ v
    _ = H @ torch.stack([v, v], 1), H.dense(), H.diagonal(), point.value, point.grad
    assert torch.equal(H @ v, first)
    assert torch.equal(v, kept) and torch.equal(w, before) and torch.equal(point.Z, Z)


def test_products_take_vectors_that_are_not_contiguous(f, w):
    V = randn(f.dim, 2, seed=15, dtype=f.dtype, device=f.device)
    H = f.at(w).hessian()
    assert_close(H @ V[:, 1], H @ V[:, 1].contiguous(), ulps(f.dtype, 50))


def test_gauss_newton_is_the_sum_over_samples_of_outputs_jacobians(case, f, w):
    """J' (d2 loss / d outputs of the residual form) J by autograd, sample by sample."""
    reference = _gauss_newton(case, f, w.double())
    G = f.at(w).gauss_newton()
    v = randn(f.dim, seed=16, dtype=f.dtype, device=f.device)
    assert_close(G.dense(), reference, ulps(f.dtype))
    assert_close(G @ v, reference @ v.double(), ulps(f.dtype))
    assert_close(G.diagonal(), reference.diagonal(), ulps(f.dtype))
    assert float(torch.linalg.eigvalsh(G.dense().double())[0]) >= f.l2 * (1 - ulps(f.dtype))


def _gauss_newton(case, f, w):
    """For a nonlinear least-squares problem J'J / n with J of sigmoid(Xw); else the Hessian."""
    if case.name != "sigmoid_least_squares":
        return torch.func.hessian(plain(case, f))(w)
    X = f.features.X.to_dense().double()
    J = torch.func.jacrev(lambda w: 1 / (1 + torch.exp(-(X @ w))))(w)
    return J.T @ J / f.n_samples + f.l2 * torch.eye(f.dim, dtype=w.dtype, device=w.device)


@each_loss
@each_layout
def test_derivatives_are_those_of_central_differences(loss, sparse):
    f = make(loss, sparse=sparse)
    w, p = randn(2, f.dim, seed=21)
    h = 1e-5
    up, down, here = f.at(w + h * p), f.at(w - h * p), f.at(w)
    slope = (up.value - down.value) / (2 * h)
    assert slope == pytest.approx(float(here.grad @ p), rel=1e-7)
    assert_close(here.hessian() @ p, (up.grad - down.grad) / (2 * h), 1e-7)


def test_squared_hinge_at_the_kink_takes_the_generalized_hessian_of_the_flat_side():
    """Mangasarian's: 2 where y z < 1, 0 elsewhere; at y z = 1 exactly, liblinear's choice is 0."""
    X = torch.eye(4, dtype=torch.float64)
    f = make("squared_hinge", l2=0.0, X=X, y=torch.tensor([1, 1, 1, 0]))
    w = torch.tensor([0.5, 1.0, 1.5, -1.0], dtype=torch.float64)
    assert f.at(w).hessian().diagonal().tolist() == [0.5, 0, 0, 0]
    assert f.at(w).grad.tolist() == [-0.25, 0, 0, 0]


class TestMultinomialGauge:
    """Adding one vector to all classes' columns changes no probability."""

    @pytest.fixture
    def f(self):
        return make("multinomial", l2=0.0, n_classes=4)

    @pytest.fixture
    def gauge(self, f):
        shift = randn(f.dim // 4, seed=31)
        return shift[:, None].expand(-1, 4).reshape(-1)

    def test_value_and_gradient_do_not_see_it(self, f, gauge):
        w = randn(f.dim, seed=32)
        assert f.at(w + gauge).value == pytest.approx(f.at(w).value, rel=1e-13)
        assert_close(f.at(w + gauge).grad, f.at(w).grad, 1e-12)

    def test_it_spans_the_null_space_of_the_hessian(self, f, gauge):
        H = f.at(randn(f.dim, seed=32)).hessian()
        assert float((H @ gauge).norm()) <= 1e-14 * float(gauge.norm())
        eigenvalues = torch.linalg.eigvalsh(H.dense())
        assert int((eigenvalues < 1e-12).sum()) == f.dim // 4

    def test_two_classes_are_logistic_regression_of_the_difference(self):
        y = (torch.arange(60) % 3 == 0).long()
        both = make("multinomial", l2=0.0, n_classes=2, y=y)
        one = make("logistic", l2=0.0, y=y)
        W = randn(one.dim, 2, seed=33)
        difference = one.at(W[:, 1] - W[:, 0])
        assert both.at(W.reshape(-1)).value == pytest.approx(difference.value, rel=1e-14)
        grad = both.at(W.reshape(-1)).grad.reshape(-1, 2)
        assert_close(grad[:, 1], difference.grad, 1e-13)
        assert_close(grad[:, 0], -difference.grad, 1e-13)


MARGINS = [0.0, 1e-8, 0.3, 1.0, 5.0, 17.0, 36.0, 40.0, 90.0, 700.0, 745.0, 1e3, 1e4]


def _exact(name, z, y):
    """Loss and its derivatives by z in 100 digits; y = 0 or 1, for a regression a number."""
    mp = mpmath.mp
    z, y = mp.mpf(z), mp.mpf(y)
    s = 2 * y - 1
    m = s * z

    def sigmoid(t):
        return 1 / (1 + mp.exp(-t))

    if name == "logistic":
        q = sigmoid(-m)
        return mp.log1p(mp.exp(-m)), -s * q, q * sigmoid(m)
    if name == "squared_hinge":
        gap = 1 - m
        return (gap**2, -2 * s * gap, mp.mpf(2)) if gap > 0 else (mp.mpf(0),) * 3
    if name == "least_squares":
        return (z - y) ** 2 / 2, z - y, mp.mpf(1)
    if name == "huber":
        r, delta = z - y, mp.mpf(1.35)
        far = delta * (abs(r) - delta / 2), delta * mp.sign(r), mp.mpf(0)
        return (r**2 / 2, r, mp.mpf(1)) if abs(r) <= delta else far
    if name == "probit":
        density = mp.exp(-(m**2) / 2) / mp.sqrt(2 * mp.pi)
        ratio = density / (mp.erfc(-m / mp.sqrt(2)) / 2)
        return -mp.log(mp.erfc(-m / mp.sqrt(2)) / 2), -s * ratio, ratio * (m + ratio)
    p = sigmoid(z)
    slope = p * sigmoid(-z)
    return (p - y) ** 2 / 2, (p - y) * slope, slope**2 + (p - y) * slope * (sigmoid(-z) - p)


@pytest.mark.parametrize("y", [0, 1])
@each_dtype
@pytest.mark.parametrize("loss", [L for L in LOSSES if L.task in ("binary", "regression")], ids=str)
def test_every_sample_is_right_to_rounding_at_any_margin(loss, dtype, y):
    """X = I makes each margin its own parameter, so each sample is seen by itself."""
    z = torch.tensor(MARGINS + [-m for m in MARGINS[1:]], dtype=dtype)
    n, rounding = len(z), ulps(dtype, 8)
    f = make(loss, l2=0.0, X=torch.eye(n, dtype=dtype), y=torch.full((n,), y), dtype=dtype)
    point = f.at(z)
    with mpmath.workdps(100):
        exact = [_exact(loss.name, float(v), y) for v in z]
        value, slopes, seconds = [[float(v) for v in column] for column in zip(*exact, strict=True)]
    assert point.value == pytest.approx(sum(value) / n, rel=rounding)
    assert (n * point.grad.double()).tolist() == pytest.approx(slopes, rel=rounding, abs=rounding)
    second = (n * point.hessian().diagonal().double()).tolist()
    assert second == pytest.approx(seconds, rel=rounding, abs=rounding)


@each_dtype
def test_logistic_gradients_of_confident_samples_do_not_cancel(dtype):
    """A gradient p - 1 of a probability near one would be zero from margin 37 (17) on."""
    margins = torch.tensor([m for m in MARGINS if m < 80], dtype=dtype)
    n = len(margins)
    f = make("logistic", l2=0.0, X=torch.eye(n), y=torch.ones(n).long(), dtype=dtype)
    with mpmath.workdps(100):
        exact = [float(_exact("logistic", float(m), 1)[1]) for m in margins]
    assert (n * f.at(margins).grad.double()).tolist() == pytest.approx(exact, rel=ulps(dtype, 8))


@each_dtype
def test_multinomial_is_finite_and_right_at_any_margin(dtype):
    """Logits (m, 0, -m): the loss is its exact limit, and a row of the gradient sums to zero."""
    margins = torch.tensor(MARGINS, dtype=dtype)
    n = len(margins)
    for label, sign in [(0, 1.0), (1, 0.0), (2, -1.0)]:
        f = make("multinomial", l2=0.0, X=torch.eye(n, dtype=dtype), dtype=dtype,
                 y=torch.full((n,), label), n_classes=3)  # fmt: skip
        Z = torch.stack([margins, 0 * margins, -margins], 1)
        point = f.at(Z.reshape(-1))
        with mpmath.workdps(50):
            exact = [
                float(mpmath.log(mpmath.exp(m) + 1 + mpmath.exp(-m)) - sign * mpmath.mpf(m))
                for m in margins.tolist()
            ]
        assert point.value == pytest.approx(sum(exact) / n, rel=ulps(dtype, 8))
        G = point.grad.reshape(n, 3)
        assert torch.isfinite(G).all() and float(G.sum(1).abs().max()) <= ulps(dtype, 2) / n
        H = point.hessian()
        assert torch.isfinite(H @ torch.ones(f.dim, dtype=dtype)).all()
        assert torch.isfinite(H.diagonal()).all() and float(H.diagonal().min()) >= 0


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not loss.exponential], ids=str)
@each_dtype
@each_layout
def test_real_features_with_huge_weights_stay_finite(loss, dtype, sparse):
    f = make(loss, dtype=dtype, sparse=sparse)
    for scale in (1e2, 1e4):
        w = scale * randn(f.dim, seed=41, dtype=dtype)
        point = f.at(w)
        products = point.hessian() @ w, point.gauss_newton() @ w
        assert all(torch.isfinite(t).all() for t in (*products, point.grad))
        assert 0 <= point.value < float("inf")


@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
@pytest.mark.parametrize("l2", [0.0, 1e-3, 0.7])
def test_the_convexity_modulus_is_a_lower_bound_of_the_spectrum(loss, l2):
    f = make(loss, l2=l2)
    for seed, scale in [(51, 0.0), (52, 1.0), (53, 2.0 if loss.exponential else 100.0)]:
        H = f.at(scale * randn(f.dim, seed=seed)).hessian().dense()
        assert float(torch.linalg.eigvalsh(H)[0]) >= f.convexity - 1e-14


def test_the_convexity_modulus_is_sharp_where_the_data_has_a_null_space():
    f = make("logistic", l2=0.3, X=torch.cat([randn(30, 3, seed=1), torch.zeros(30, 1)], 1))
    eigenvalues = torch.linalg.eigvalsh(f.at(randn(4, seed=2)).hessian().dense())
    assert float(eigenvalues[0]) == pytest.approx(f.convexity, rel=1e-12)


def test_a_nonconvex_loss_names_no_modulus_and_is_indefinite_somewhere():
    f = make("sigmoid_least_squares", l2=0.0)
    assert f.convexity is None
    H = f.at(5 * randn(f.dim, seed=3)).hessian().dense()
    assert float(torch.linalg.eigvalsh(H)[0]) < -1e-4


@each_loss
def test_a_data_set_of_another_task_is_refused_with_the_right_choice(loss):
    for other in LOSSES:
        if make_dataset(other.task).task != make_dataset(loss.task).task:
            with pytest.raises(ConfigError, match=f"loss={loss.name} needs .*; choose loss="):
                entry("loss", loss.name).target(make_dataset(other.task))


@each_loss
def test_parameters_of_the_wrong_shape_are_refused(loss):
    f = make(loss)
    with pytest.raises(ValueError, match=rf"expected w of shape \({f.dim},\)"):
        f.at(torch.zeros(f.dim + 1, dtype=f.dtype))


def test_accuracy_is_the_share_of_rightly_classified_samples():
    X = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]], dtype=torch.float64)
    f = make("logistic", X=X, y=torch.tensor([1, 0, 1, 1]))
    split = Split(f.features.X, f.y)
    assert f.accuracy(torch.tensor([1.0, -1.0], dtype=torch.float64), split) == 0.5
    assert make("least_squares", X=X).accuracy(torch.zeros(2, dtype=torch.float64), split) is None
    W = torch.tensor([[1.0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    many = make("multinomial", X=X, y=torch.tensor([0, 1, 0, 0]), n_classes=3)
    assert many.accuracy(W.reshape(-1), Split(many.features.X, many.y)) == 0.75
