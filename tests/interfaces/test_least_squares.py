"""`least_squares` beside SciPy's, and NIST's certified problems."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor

import newton_krylov
from newton_krylov import least_squares
from newton_krylov.data import load_dataset
from newton_krylov.data.nist import FORMULAS
from newton_krylov.errors import UserError
from newton_krylov.objectives.residual.jacobian import Jacobian

START = [-1.2, 1.0]


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack((10 * (x[1] - x[0] ** 2), 1 - x[0]))


def decay(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return x[0] * torch.exp(-x[1] * t) + x[2] - y


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(0, 5, 40, dtype=torch.float64)
    y = 2 * torch.exp(-0.8 * t) + 0.5 + 0.02 * torch.randn(40, generator=generator).double()
    y[[5, 20, 33]] += torch.tensor([3.0, -2.0, 4.0]).double()  # outliers
    return t, y


def theirs(t: Tensor, y: Tensor, **options):
    def fun(x):
        return decay(torch.as_tensor(x), t, y).numpy()

    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
    return scipy.optimize.least_squares(fun, [1.0, 1.0, 0.0], jac="3-point", **tight, **options)


@pytest.mark.parametrize("loss", ["linear", "soft_l1", "huber", "cauchy", "arctan"])
def test_every_loss_ends_at_scipy_s_minimum(loss, data):
    scale = {} if loss == "linear" else {"f_scale": 0.1}
    mine = least_squares(
        decay, [1.0, 1.0, 0.0], args=data, loss=loss, ftol=1e-14, xtol=1e-14, gtol=1e-14, **scale
    )
    other = theirs(*data, loss=loss, **scale)
    assert mine.success
    assert mine.cost <= other.cost * (1 + 1e-9)
    if loss != "arctan":  # which has several minima
        assert mine.x.numpy() == pytest.approx(other.x, rel=1e-5)
        assert mine.cost == pytest.approx(other.cost, rel=1e-9)


def test_the_result_has_scipy_s_fields(data):
    mine, other = least_squares(decay, [1.0, 1.0, 0.0], args=data), theirs(*data)
    assert set(other.keys()) <= set(mine.keys())
    r = decay(mine.x, *data)
    assert torch.equal(mine.fun, r)
    assert mine.cost == pytest.approx(float(r @ r) / 2)
    J = torch.func.jacrev(lambda x: decay(x, *data))(mine.x)
    assert torch.allclose(mine.jac, J)
    assert torch.allclose(mine.grad, J.T @ r, atol=1e-12)
    assert mine.optimality == pytest.approx(float(mine.grad.abs().max()))
    assert mine.njev <= mine.nfev <= 300


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy", "arctan"])
def test_the_robust_gradient_is_autograd_s(loss, data):
    from newton_krylov.objectives.residual.robust import LOSSES, RobustObjective

    x = torch.tensor([1.5, 0.5, 0.2], dtype=torch.float64)
    point = RobustObjective(lambda w: decay(w, *data), x, LOSSES[loss], 0.3).at(x)

    def cost(w: Tensor) -> Tensor:
        return 0.3**2 * LOSSES[loss]((decay(w, *data) / 0.3) ** 2)[0].sum() / 2

    assert point.value == pytest.approx(float(cost(x)))
    assert torch.allclose(point.grad, torch.func.grad(cost)(x))
    z = torch.linspace(0.01, 4, 50, dtype=torch.float64)
    _, slope, bend = LOSSES[loss](z)
    first = torch.func.vmap(torch.func.grad(lambda z: LOSSES[loss](z)[0]))
    second = torch.func.vmap(torch.func.grad(lambda z: LOSSES[loss](z)[1]))
    assert torch.allclose(slope, first(z))
    assert torch.allclose(bend, second(z))


@pytest.mark.parametrize("solver", ["qr", "exact", "lsmr", "lsqr", "cg"])
@pytest.mark.parametrize("x_scale", [None, "jac", 1.0, [0.5, 2.0]])
def test_every_route_and_scaling(solver, x_scale):
    result = least_squares(rosenbrock, START, solver=solver, x_scale=x_scale)
    assert result.success
    assert torch.allclose(result.x, torch.ones(2, dtype=torch.float64), atol=1e-6)


def test_which_tolerance_stopped():
    assert least_squares(rosenbrock, START, ftol=None, xtol=None, gtol=1e-3).status == 1
    shifted = {"fun": lambda x: torch.cat((rosenbrock(x), torch.ones_like(x))), "x0": START}
    assert least_squares(**shifted, xtol=None, gtol=None).status == 2
    assert least_squares(**shifted, ftol=None, gtol=None, xtol=1e-4).status == 3
    limited = least_squares(rosenbrock, START, max_nfev=3)
    assert (limited.status, limited.success, limited.nfev) == (0, False, 3)
    assert "max_nfev" in limited.message
    assert least_squares(rosenbrock, [1.0, 1.0]).nfev == 1


def test_residuals_may_be_blocks_and_x_may_be_float32():
    def blocks(x: Tensor) -> dict[str, Tensor]:
        r = rosenbrock(x)
        return {"valley": r[:1], "end": r[1:]}

    assert torch.allclose(least_squares(blocks, START).x, torch.ones(2).double())
    single = least_squares(rosenbrock, torch.tensor(START))
    assert single.x.dtype == torch.float32
    assert torch.allclose(single.x, torch.ones(2), atol=1e-3)


def test_the_callback_sees_the_cost_fall():
    costs: list[float] = []
    least_squares(rosenbrock, START, callback=lambda x, cost: costs.append(cost))
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("change", [Tensor.requires_grad_, lambda x: x.sub_(1.0)])
@pytest.mark.parametrize("jac", [None, lambda x: 2 * torch.eye(2)])
def test_what_a_function_does_to_its_argument_stays_with_it(change, jac) -> None:
    def residuals(x: Tensor) -> Tensor:
        return 2 * change(x)

    shift = float(change is not Tensor.requires_grad_)
    found = least_squares(residuals, [3.0, 4.0], jac)
    assert found.x.tolist() == pytest.approx([shift, shift], abs=1e-7)
    assert not any(value.requires_grad for value in found.values() if isinstance(value, Tensor))


@pytest.mark.parametrize("call", [least_squares, newton_krylov.minimize])
@pytest.mark.parametrize("later", [0, 3])
def test_an_error_of_the_function_s_own_is_raised_as_it_is(call, later: int) -> None:
    """Also where it is of the kind that torch raises of what it cannot transform."""

    class Own(RuntimeError):
        pass

    for kind in (RuntimeError, Own):
        calls = itertools.count()

        def function(x: Tensor, calls=calls, kind=kind) -> Tensor:
            if next(calls) >= later:
                raise kind("no such x")
            return (x**4).sum()

        with pytest.raises(RuntimeError, match="no such x") as raised:
            call(function, [3.0, 2.0])
        assert type(raised.value) is kind and raised.value.__context__ is None
        if kind is Own:
            assert next(calls) == later + 1  # it is not called once more to see


def test_in_inference_mode_it_is_the_same() -> None:
    square = lambda x: rosenbrock(x).square().sum()  # noqa: E731
    for jac in (None, lambda x: torch.tensor([[-20 * x[0], 10], [-1, 0]])):
        outside = least_squares(rosenbrock, START, jac)
        with torch.inference_mode():
            inside = least_squares(rosenbrock, START, jac)
        assert torch.equal(inside.x, outside.x) and not inside.x.is_inference()
    with torch.inference_mode():
        found = newton_krylov.minimize(square, START)
    assert torch.equal(found.x, newton_krylov.minimize(square, START).x)


@pytest.mark.parametrize("call", [least_squares, newton_krylov.minimize])
def test_callbacks_have_scipy_s_forms_and_may_end_the_search(call):
    """(x), (intermediate_result) by its name, and StopIteration, for both functions."""
    function = rosenbrock if call is least_squares else lambda x: rosenbrock(x).square().sum() / 2
    ours: list[float] = []
    theirs: list[Any] = []
    call(function, START, callback=lambda x, value: ours.append(value))
    call(function, START, callback=lambda intermediate_result: theirs.append(intermediate_result))  # noqa: PLW0108
    assert [each.fun for each in theirs] == ours

    def once(xk: Tensor) -> None:
        xk.zero_()  # a copy
        raise StopIteration

    ended = call(function, START, callback=once)
    assert torch.equal(ended.x, theirs[0].x) and not ended.success
    assert ended.status == (-2 if call is least_squares else 99)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"x0": [[1.0, 2.0]]}, "x0 must be a vector"),
        ({"x0": torch.tensor([1, 2])}, "x0 must be a vector of float32 or float64"),
        ({"loss": "hubber"}, "did you mean 'huber'"),
        ({"f_scale": 0.0}, "f_scale must be a number above zero"),
        ({"f_scale": [1.0, 2.0]}, "f_scale must be a number above zero"),
        ({"x_scale": 1.0 + 2.0j}, "x_scale must be numbers or 'jac'"),
        ({"x_scale": [[1.0, 2.0], 3.0]}, "x_scale must be numbers or 'jac'"),
        ({"loss": ["huber"]}, "is unknown"),
        ({"jac": lambda x: None}, "jac must return the Jacobian as a tensor, .*, not NoneType"),
        ({"jac": lambda x: "J"}, "jac must return the Jacobian as a tensor, .*, not str"),
        ({"x_scale": -1.0}, "x_scale must be above zero"),
        ({"x_scale": "jax"}, "x_scale must be numbers or 'jac'"),
        ({"x0": [math.nan, 1.0]}, "not finite at x0"),
        ({"x0": {"a": 1.0}}, "x0 must be a vector of real numbers, not dict"),
        ({"x0": [1j, 1.0]}, "x0 must be a vector of real numbers, not list"),
        ({"x0": np.array([1j, 1.0])}, "x0 must be a vector of real numbers, not ndarray"),
        ({"jac": "2-point"}, "there are no finite differences here"),
        ({"jac": lambda x: torch.eye(3)}, r"jac must return shape \(2, 2\)"),
        ({"fun": lambda x: np.exp(x.numpy())}, "fun has no gradient"),
        ({"fun": lambda x: [torch.complex(x[0], x[1])]}, "fun must return real numbers"),
        ({"jac": lambda x: 1j * np.eye(2)}, "jac must return real numbers"),
        ({"max_nfev": "many"}, "max_nfev must be at least 1, not 'many'"),
        *(({"bounds": bounds}, "least_squares has no bounds: take") for bounds in (
            3, "none", (), (None, None), [(0, 1)] * 3, (math.nan, math.inf), ([-1, 0], math.inf),
            scipy.optimize.Bounds([0, 0], [1, 1]),
        )),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        least_squares(**{"fun": rosenbrock, "x0": START, **options})


@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
def test_a_jacobian_that_is_given_serves_functions_of_arrays(loss, data):
    t, y = (each.numpy() for each in data)

    def fun(x, t):
        return np.asarray(x)[0] * np.exp(-np.asarray(x)[1] * t) - y

    def jac(x, t):
        a, b = np.asarray(x)
        return np.stack((np.exp(-b * t), -a * t * np.exp(-b * t)), axis=1)

    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "loss": loss}
    mine = least_squares(fun, [1, 1], jac=jac, args=t, **tight)
    other = scipy.optimize.least_squares(fun, [1.0, 1.0], jac, args=(t,), **tight)
    assert mine.success
    assert mine.x.numpy() == pytest.approx(other.x, rel=1e-5)
    assert mine.cost == pytest.approx(other.cost, rel=1e-8)
    assert mine.jac.numpy() == pytest.approx(jac(mine.x, t))


def log_relative_error(found: Tensor, certified: Tensor) -> float:
    """Digits that the worst parameter shares with the certified one; 11 are certified."""
    error = ((found - certified) / certified).abs().clamp(min=1e-11)
    return float(-error.log10().max())


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("problem", sorted(FORMULAS))
def test_nist_s_certified_parameters(problem, start):
    """54 of 54, with the same settings for all; the tolerances leave it to the rounding."""
    data = load_dataset(f"nist_{problem}", {"start": start})
    result = least_squares(
        data.residuals, data.start, ftol=None, xtol=None, gtol=None, max_nfev=3000
    )
    assert log_relative_error(result.x, data.certified) >= 6
    assert np.isfinite(result.cost)


def test_a_jacobian_of_one_row_may_be_a_vector_as_in_scipy() -> None:
    one = least_squares(lambda x: x[0] + 2 * x[1] - 1, [1.0, 2.0], lambda x: torch.tensor([1, 2]))
    assert one.cost < 1e-15 and one.jac.tolist() == [[1.0, 2.0]]
    scipy_s_own = least_squares(
        lambda x, a: (x - a) ** 2 + 5, 2.0, lambda x, a: 2 * (x - a), args=[3]
    )
    assert scipy_s_own.x.tolist() == pytest.approx([3.0], abs=1e-4)


def test_a_soft_loss_of_a_large_scale_is_the_square(data) -> None:
    """sqrt(1 + z) - 1 has no digit of a z of 1e-16, and steps by its rounding were refused."""
    plain = least_squares(decay, [1.0, 1.0, 0.0], args=data)
    for loss in ("soft_l1", "huber", "cauchy", "arctan"):
        soft = least_squares(decay, [1.0, 1.0, 0.0], args=data, loss=loss, f_scale=1e8)
        assert soft.cost == pytest.approx(plain.cost, rel=1e-12)
        assert soft.nfev <= plain.nfev + 2


def test_it_is_there_by_name():
    assert newton_krylov.least_squares is least_squares


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x - 1).detach(), "does not depend on x"),
        (lambda x: torch.ones(2, dtype=torch.int64), "does not depend on x"),
        (lambda x: [x - 1], "not list"),
        (lambda x: x - 1j, "real numbers"),
        (lambda x: x[:0], "no residuals"),
        (lambda x: 1e200 * x, "squares are beyond the range"),
        (lambda x: 1e-200 * x, "squares are beyond the range"),
    ],
)
def test_functions_without_a_gradient_or_a_cost(function: Any, message: str) -> None:
    """Not found optimal at the start, where the gradient is missing or lost to underflow."""
    with pytest.raises(ValueError, match=message):
        least_squares(function, [3.0, 2.0])


@pytest.mark.parametrize(
    "options",
    [
        {"ftol": math.nan},
        {"xtol": -1.0},
        {"max_nfev": 0},
        {"memory": math.nan},
        {"f_scale": math.inf, "loss": "huber"},
        {"x_scale": [1.0, 2.0, 3.0]},
        {"x_scale": math.inf},
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|has shape"):
        least_squares(rosenbrock, START, **options)


def test_columns_that_shrink_fast_beside_one_that_does_not() -> None:
    """J's first column falls by a third a step; it once looked like zero, and that like the end."""
    result = least_squares(lambda x: torch.exp(50 * x) - 1, [2.0, 0.5], max_nfev=2000)
    assert result.success
    assert result.x.abs().max() < 1e-6


def soft_l1(z: Any) -> Any:
    """Return rho and its derivatives as SciPy takes them; of arrays and of tensors."""
    return (2 * ((1 + z) ** 0.5 - 1), (1 + z) ** -0.5, -0.5 * (1 + z) ** -1.5)


@pytest.mark.parametrize("rho", [lambda z: np.array(soft_l1(z.numpy())),
                                 lambda z: torch.stack(soft_l1(z))])  # fmt: skip
def test_a_loss_of_one_s_own(rho, data):
    start, tight = [1.0, 1.0, 0.0], {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
    mine = least_squares(decay, start, args=data, loss=rho, f_scale=0.1, **tight)
    named = least_squares(decay, start, args=data, loss="soft_l1", f_scale=0.1, **tight)
    assert torch.allclose(mine.x, named.x, rtol=1e-9)
    with pytest.raises(ValueError, match=r"loss must return shape \(3, 40\)"):
        least_squares(decay, start, args=data, loss=lambda z: z)


def test_scipy_s_documented_calls_as_they_are_written():
    """Lists, whole numbers, single numbers, arrays beside a Jacobian in third place, in place."""

    def of_lists(x):
        return [10 * (x[1] - x[0] ** 2), 1 - x[0]]

    def of_arrays(x):
        return np.array([10 * (x[1] - x[0] ** 2), (1 - x[0])])

    def jacobian(x):
        return np.array([[-20 * x[0], 10], [-1, 0]])

    def broyden(x):
        f = (3 - x) * x + 1
        f[1:] -= x[:-1]
        f[:-1] -= 2 * x[1:]
        return f

    one = torch.ones(2, dtype=torch.float64)
    for x0 in ([2, 2], np.array([2, 2])):
        assert torch.allclose(least_squares(of_lists, x0, bounds=(-np.inf, np.inf)).x, one)
    assert torch.allclose(least_squares(of_arrays, np.array([2, 2]), jacobian).x, one)
    assert float(least_squares(lambda x, a: x[0] - a, 1, kwargs={"a": 3}).x) == pytest.approx(3)
    expected = scipy.optimize.least_squares(broyden, -np.ones(50)).x
    assert least_squares(broyden, -np.ones(50)).x.numpy() == pytest.approx(expected, rel=1e-6)


def test_verbose_prints_the_steps_and_the_end(capsys):
    result = least_squares(rosenbrock, START, verbose=1)
    assert capsys.readouterr().out.startswith(result.message)
    costs: list[float] = []
    least_squares(rosenbrock, START, verbose=2, callback=lambda x, cost: costs.append(cost))
    out = capsys.readouterr().out.splitlines()
    assert [f"cost {cost:.4e}" in line for cost, line in zip(costs, out, strict=False)]
    assert len(out) == len(costs) + 1


@pytest.mark.parametrize("call", [least_squares, newton_krylov.minimize])
def test_weights_that_are_copied_into_a_network_are_refused(call) -> None:
    """torch.func's tensors as a parameter's data ended the process: a segmentation fault."""
    network = torch.nn.Linear(3, 1).double()
    X = torch.eye(3).double()

    def function(x: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(x, network.parameters())
        return network(X).square().sum()

    with pytest.raises(ValueError, match=r"does not depend on x .*functional_call, not by vector"):
        call(function, [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_single_precision_whose_squares_are_out_of_range_is_told(unit: float) -> None:
    """The gradient of the small ones is 0, which was a success; the large ones' was no number."""
    start = torch.tensor(START)
    with pytest.raises(ValueError, match=r"squares are beyond the range .* other units"):
        least_squares(lambda x: unit * rosenbrock(x), start)
    assert least_squares(lambda x: unit**0.5 * rosenbrock(x), start).success
    near = least_squares(lambda x: x - 1 + 1e-25, torch.ones(2))  # a start that is the solution
    assert near.success


def test_residuals_whose_number_changes():
    calls = iter(range(100))
    with pytest.raises(UserError, match=r"returned \d residuals, and \d when it was first"):
        least_squares(lambda x: torch.cat([x - 1] * (1 + next(calls) % 2)), START)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bounds": ([0, 0], [1, 1])}, "has no bounds: take scipy.optimize.least_squares"),
        ({"bounds": scipy.optimize.Bounds([0, 0], [1, 1])}, "has no bounds"),
        ({"method": "trf"}, "method must be 'lm'"),
        ({"jac": "2-point"}, "no finite differences here, but scipy.optimize.least_squares"),
        ({"diff_step": 1e-3}, "has no diff_step: derivatives are exact"),
        ({"jac_sparsity": np.eye(2)}, "solver='lsmr'"),
        ({"verbose": 3}, "verbose must be 0, 1 or 2"),
    ],
)
def test_what_scipy_has_besides_is_answered_by_what_would_do(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        least_squares(rosenbrock, START, **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        least_squares(rosenbrock, START, foo=1)


def fitted_by(module: torch.nn.Module) -> Any:
    """Return the fit of a module's weights to random targets."""
    generator = torch.Generator().manual_seed(0)
    X, y = (torch.randn(*n, generator=generator).double() for n in ((12, 4, 3), (12,)))
    names, weights = zip(*module.double().named_parameters(), strict=True)
    sizes = [p.numel() for p in weights]

    def residuals(w: Tensor) -> Tensor:
        parts = zip(names, w.split(sizes), weights, strict=True)
        named = {n: v.view_as(p) for n, v, p in parts}
        return torch.func.functional_call(module, named, (X,)).sum((1, 2)) - y

    start = torch.cat([p.detach().reshape(-1) for p in weights])
    return least_squares(residuals, start, max_nfev=4), residuals(start)


def test_attention_has_no_kernel_that_forward_mode_cannot_follow() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(3, 1, 4, batch_first=True)
    result, first = fitted_by(layer.eval())
    assert result.cost < float(first @ first) / 2


@pytest.mark.parametrize(
    ("layer", "error", "sentence"),
    [
        (torch.nn.BatchNorm1d(4), UserError, "running averages of batch norm: put the network"),
        (torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)), ValueError,
         "called again at x0: what is random in it must be fixed, such as dropout"),
    ],
)  # fmt: skip
def test_a_network_in_training_mode_that_is_no_one_function(layer, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        fitted_by(layer)


def tridiagonal(x: Tensor) -> Tensor:
    """Broyden's tridiagonal function."""
    f = (3 - x) * x + 1
    return f - torch.nn.functional.pad(x[:-1], (1, 0)) - 2 * torch.nn.functional.pad(x[1:], (0, 1))


def sparse_jacobian(x: Tensor) -> Any:
    n = len(x)
    bands = [-np.ones(n - 1), 3 - 2 * x.numpy(), -2 * np.ones(n - 1)]
    return scipy.sparse.diags_array(bands, offsets=[-1, 0, 1])


@pytest.mark.parametrize("solver", ["qr", "lsmr"])
@pytest.mark.parametrize("form", [lambda J: J, lambda J: J.tocsr(), aslinearoperator])
def test_a_jacobian_may_be_sparse_or_an_operator(form, solver) -> None:
    found = least_squares(
        tridiagonal, -torch.ones(40).double(), lambda x: form(sparse_jacobian(x)), solver=solver
    )
    assert found.success and found.optimality < 1e-9
    assert torch.equal(found.jac, torch.as_tensor(sparse_jacobian(found.x).toarray()))


def test_a_jacobian_beyond_the_memory_is_not_formed(monkeypatch) -> None:
    """Neither by its own solver nor for the columns' norms, which ones take the place of."""
    start = -torch.ones(400).double()
    with pytest.raises(ValueError, match=r"400 by 400, does not fit into memory=0\.001 GiB"):
        least_squares(tridiagonal, start, memory=1e-3)
    with pytest.raises(ValueError, match="x_scale='jac' takes the norms of the columns"):
        least_squares(tridiagonal, start, memory=1e-3, solver="lsmr", x_scale="jac")
    monkeypatch.setattr(Jacobian, "dense", None)
    for loss in ("linear", "soft_l1"):
        found = least_squares(tridiagonal, start, memory=1e-3, solver="lsmr", loss=loss)
        assert found.success and found.jac is None and found.optimality < 1e-7


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_more_evaluations_than_the_limit(limit: int) -> None:
    found = least_squares(rosenbrock, START, max_nfev=limit)
    assert found.nfev == limit and found.status == 0 and not found.success


def test_a_jacobian_that_is_no_number_is_no_success():
    nan = np.full((2, 2), math.nan)
    with pytest.raises(ValueError, match="numbers of jac are not finite at x0"):
        least_squares(lambda x: x - 1, [0.0, 0.0], jac=lambda x: nan)
    with pytest.raises(ValueError, match="derivatives of fun are not finite at x0"):
        least_squares(lambda x: torch.stack([x.square().sum().sqrt(), x[0] - 1]), [0.0, 0.0])
    calls = []

    def later(x):
        calls.append(x)
        return np.diag(3 * np.asarray(x) ** 2) if len(calls) < 4 else nan

    found = least_squares(lambda x: np.asarray(x) ** 3 - 8, [5.0, 7.0], jac=later)
    assert not found.success and found.status == -3
    assert np.isfinite(found.x.numpy()).all()
    with pytest.raises(ValueError, match="real numbers"):
        least_squares(
            lambda x: x - 1, [0.0], jac=lambda x: aslinearoperator(1j * np.eye(1)), solver="lsmr"
        )


def test_a_loss_may_begin_below_zero_and_one_without_an_end_is_no_number() -> None:
    def shifted(z: Tensor) -> Tensor:
        return torch.stack([z - 5, torch.ones_like(z), torch.zeros_like(z)])

    found = least_squares(lambda x: x - 3, [0.0], loss=shifted)
    assert found.x.item() == pytest.approx(3)
    with pytest.raises(ValueError, match="squares are beyond the range"):
        least_squares(lambda x: 1e155 * x, [1.0], loss="soft_l1")
