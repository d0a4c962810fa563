"""The spectral density by stochastic Lanczos quadrature against the dense spectrum."""

import pytest
import torch
from problems import make, randn
from scipy.spatial.distance import jensenshannon

from newton_krylov.operators import MatrixOperator
from newton_krylov.spectral.density import jensen_shannon, spectral_density
from newton_krylov.spectral.lanczos import gauss_quadrature


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues, seed=0):
    n = len(eigenvalues)
    Q = torch.linalg.qr(randn(n, n, seed=seed)).Q
    return MatrixOperator(Q @ torch.diag(eigenvalues) @ Q.T)


def distance(density, eigenvalues):
    """Return Wasserstein's distance of the two distributions: the area between their steps."""
    places = torch.cat([density.nodes, eigenvalues]).sort().values
    exact = torch.searchsorted(eigenvalues.sort().values, places, right=True) / len(eigenvalues)
    gap = (density.share_below(places) - exact).abs()
    return float((gap[:-1] * places.diff()).sum())


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_the_quadrature_is_exact_for_polynomials_of_the_theory_s_degree(steps):
    A, v = symmetric(torch.linspace(-2, 3, 30).double()), randn(30, seed=1)
    nodes, weights = gauss_quadrature(A, v, steps)
    assert len(nodes) == steps
    power = v / v.norm() ** 2
    for k in range(2 * steps + 1):
        exact, found = float(v @ power), float(weights @ nodes**k)
        if k < 2 * steps:
            assert found == pytest.approx(exact, rel=1e-10, abs=1e-12)
        else:
            assert found != pytest.approx(exact, rel=1e-6)
        power = A @ power


def test_an_exhausted_space_ends_it_with_what_is_exact():
    A = symmetric(torch.tensor([1.0] * 10 + [4.0] * 5).double())
    nodes, weights = gauss_quadrature(A, randn(15, seed=1), 12)
    torch.testing.assert_close(nodes, torch.tensor([1.0, 4.0]).double())
    assert float(weights.sum()) == pytest.approx(1)


SPECTRA = {
    "uniform": torch.linspace(-1, 2, 200).double(),
    "bulk and outliers": torch.cat(
        [1e-2 * randn(194, seed=5), torch.tensor([3, 4, 5, 7, 9, -1.0])]
    ),
    "two clusters": torch.cat([torch.full((150,), 0.5), torch.full((50,), 2.0)]).double(),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_it_approaches_the_dense_spectrum_as_probes_are_added(name):
    eigenvalues = SPECTRA[name].double()
    A = symmetric(eigenvalues)
    density = spectral_density(A, probes=100, steps=40, generator=generator())
    span = float(eigenvalues.max() - eigenvalues.min())
    assert distance(density, eigenvalues) < 0.01 * span
    assert float(density.weights.sum()) == pytest.approx(1)
    assert float(density.weights.min()) >= 0


def test_its_error_falls_like_one_over_the_root_of_the_probes():
    eigenvalues = SPECTRA["uniform"]
    A = symmetric(eigenvalues)

    def error(probes):
        found = (spectral_density(A, probes=probes, steps=40, generator=generator(s))
                 for s in range(10))  # fmt: skip
        return sum(abs(density.moment(1) - float(eigenvalues.mean())) for density in found)

    assert error(64) < 0.5 * error(4)


def test_moments_are_unbiased():
    eigenvalues = SPECTRA["bulk and outliers"].double()
    A = symmetric(eigenvalues)
    for k in (1, 2, 3):
        values = torch.tensor(
            [
                spectral_density(A, probes=1, steps=5, generator=generator(s)).moment(k)
                for s in range(400)
            ]
        )
        exact = float((eigenvalues**k).mean())
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 20


def test_as_many_steps_as_dimensions_give_every_eigenvalue_as_a_node():
    eigenvalues = torch.linspace(-1, 2, 12).double()
    density = spectral_density(symmetric(eigenvalues), probes=1, steps=12, generator=generator())
    torch.testing.assert_close(density.nodes, eigenvalues, rtol=0, atol=1e-10)
    assert density.matvecs == 12


def test_smoothing_keeps_the_mass_and_puts_it_where_the_eigenvalues_are():
    eigenvalues = torch.tensor([0.0] * 3 + [5.0]).double()
    density = spectral_density(symmetric(eigenvalues), probes=200, steps=4, generator=generator())
    grid = torch.linspace(-3, 8, 4001).double()
    values = density.smoothed(grid, 0.2)
    assert float(torch.trapezoid(values, grid)) == pytest.approx(1, rel=1e-6)
    near = (grid - 5).abs() < 1.5
    assert float(torch.trapezoid(values[near], grid[near])) == pytest.approx(0.25, abs=0.04)


def test_the_distribution_function_counts_eigenvalues():
    eigenvalues = torch.tensor([-1.0, 0.0, 2.0, 7.0]).double()
    density = spectral_density(symmetric(eigenvalues), probes=400, steps=4, generator=generator())
    shares = density.share_below(torch.tensor([-2.0, -0.5, 1.0, 3.0, 8.0]))
    torch.testing.assert_close(
        shares, torch.tensor([0, 0.25, 0.5, 0.75, 1.0]).double(), rtol=0, atol=0.06
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loss", ["logistic", "multinomial", "sigmoid_least_squares"])
def test_it_serves_a_linear_model_s_hessian(loss, dtype):
    f = make(loss, n=100, d=30, dtype=dtype)
    H = f.at(randn(f.dim, seed=1, dtype=dtype)).hessian()
    eigenvalues = torch.linalg.eigvalsh(H.dense().double())
    density = spectral_density(H, probes=60, steps=30, generator=generator())
    span = float(eigenvalues[-1] - eigenvalues[0])
    assert distance(density, eigenvalues) < 0.03 * span
    assert density.nodes.dtype == torch.float64


def test_the_jensen_shannon_distance_is_a_distance_and_that_of_scipy():
    """Zero for one density, one for those that are apart, symmetric; SciPy's on the same grid."""
    a, b, far = (
        spectral_density(torch.diag(values), generator=generator(), steps=20)
        for values in (
            torch.linspace(0, 1, 30).double(),
            torch.linspace(0, 2, 30).double(),
            torch.linspace(50, 51, 30).double(),
        )
    )
    assert jensen_shannon(a, a) == 0.0
    assert jensen_shannon(a, far) == pytest.approx(1.0, abs=1e-6)
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a), rel=1e-12)
    nodes = torch.cat([a.nodes, b.nodes])
    width = 0.01 * float(nodes.max() - nodes.min())
    grid = torch.linspace(float(nodes.min()) - 4 * width, float(nodes.max()) + 4 * width, 2000)
    p, q = (density.smoothed(grid.double(), width).numpy() for density in (a, b))
    assert jensen_shannon(a, b) == pytest.approx(jensenshannon(p, q, base=2), rel=1e-5)
