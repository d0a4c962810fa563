"""Transport problems: their definitions, their checksums, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from newton_krylov.data.transport import transport, transport_problem
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.registry import entry

SOURCES = ["random_assignment", "gaussian_mixtures", "digits"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_problem_has_costs_up_to_one_and_two_positive_marginals_of_mass_one(source, dtype):
    data = transport(source=source, n=64, dtype=dtype)
    X, y = data.cost, torch.cat([data.row_marginal, data.column_marginal])
    assert (data.facts()["task"], data.splits[1]) == ("transport", None)
    assert X.shape == (64, 64)
    assert X.dtype == y.dtype == dtype
    assert X.max() == 1
    assert X.min() >= 0
    assert y.min() > 0
    assert y[:64].sum().item() == pytest.approx(1, rel=1e-6)
    assert y[64:].sum().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_equal_arguments_give_equal_data_and_equal_checksums(source):
    one, other = transport(source=source, n=49), transport(source=source, n=49)
    assert torch.equal(one.cost, other.cost)
    assert one.checksum == other.checksum
    different = transport(source=source, n=49, seed=1)
    # Digits are not drawn: their seed tells nothing apart.
    assert (different.checksum == one.checksum) == (source == "digits")
    assert torch.equal(different.cost, one.cost) == (source == "digits")


def test_sizes_default_to_the_paper_s():
    assert transport().cost.shape == (500, 500)
    assert transport(source="digits").cost.shape == (784, 784)


def test_random_costs_are_uniform():
    X = transport(n=300).cost
    counts = torch.histc(X, 10, 0, 1) / X.numel()
    assert (counts - 0.1).abs().max() < 0.005


def test_digits_are_images_over_a_grid_of_pixels():
    first, second = 3, 5
    data = transport(source="digits", n=64, images=(first, second), background=0.5)
    images = load_digits().images.reshape(-1, 64)
    for number, masses in zip(
        (first, second), (data.row_marginal, data.column_marginal), strict=True
    ):
        expected = images[number] / images[number].max() + 0.5
        np.testing.assert_allclose(masses.numpy(), expected / expected.sum(), rtol=1e-13)
    cost = data.cost.reshape(8, 8, 8, 8)
    assert cost[0, 0, 7, 7] == 1
    assert cost[2, 3, 4, 4].item() == pytest.approx((2**2 + 1**2) / (7**2 + 7**2))
    l1 = transport(source="digits", n=64, metric="cityblock").cost.reshape(8, 8, 8, 8)
    assert l1[2, 3, 4, 4].item() == pytest.approx(3 / 14)


def test_larger_digits_are_the_same_picture():
    small = transport(source="digits", n=64).row_marginal.reshape(8, 8)
    large = transport(source="digits", n=32 * 32).row_marginal.reshape(8, 4, 8, 4)
    correlation = torch.corrcoef(torch.stack([small.ravel(), large.sum((1, 3)).ravel()]))
    assert correlation[0, 1] > 0.97


def test_gaussian_mixtures_have_the_metric_s_costs():
    squared = transport(source="gaussian_mixtures", n=20).cost
    plain = transport(source="gaussian_mixtures", n=20, metric="euclidean").cost
    torch.testing.assert_close(plain.square(), squared)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"source": "digits", "n": 500}, "dataset.n=500 is not a square number.*484 or 529"),
        ({"source": "mnist"}, "dataset.source='mnist' is not valid"),
        ({"n": 0}, "dataset.n=0 is not valid"),
        ({"images": [0, 1797]}, "dataset.images"),
        ({"background": 0.0}, "dataset.background=0.0 is not valid"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(keywords, message):
    with pytest.raises(ConfigError, match=message):
        entry("dataset", "transport").build(keywords)()


def test_a_cost_beyond_the_memory_is_refused():
    with pytest.raises(DataError, match="10,000,000 x 10,000,000 transport problem"):
        transport(n=10**7)


GOOD = np.ones((2, 3)), np.array([0.5, 0.5]), np.array([0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cost": np.ones((3, 2))}, "shapes are"),
        ({"cost": np.full((2, 3), np.inf)}, "finite"),
        ({"row_marginal": np.array([1.0, 0.0])}, "positive"),
        ({"row_marginal": np.array([0.5, 0.6])}, "same total; theirs are 1.1 and 1"),
    ],
)
def test_a_user_s_problem_is_checked(changed, message):
    names = ("cost", "row_marginal", "column_marginal")
    with pytest.raises(DataError, match=message):
        transport_problem(**{**dict(zip(names, GOOD, strict=True)), **changed})


def test_a_user_s_problem_keeps_its_numbers():
    data = transport_problem(*GOOD, name="mine")
    assert (data.name, data.source) == ("mine", "user")
    np.testing.assert_array_equal(data.cost.numpy(), GOOD[0])
    np.testing.assert_array_equal(data.row_marginal.numpy(), GOOD[1])
    np.testing.assert_array_equal(data.column_marginal.numpy(), GOOD[2])
    assert data.checksum != transport_problem(2 * GOOD[0], *GOOD[1:]).checksum


class TestRoundingAndRange:
    def problem(self, seed=0, n=784):
        rng = np.random.default_rng(seed)
        return rng.random((n, n)), *(rng.random(n) for _ in range(2))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("seed", range(5))
    def test_histograms_are_normalized_to_their_precision(self, dtype, seed):
        cost, a, b = self.problem(seed)
        a, b = (h.astype(dtype) / h.astype(dtype).sum() for h in (a, b))
        assert transport_problem(cost, a, b).cost.shape == (784, 784)
        with pytest.raises(DataError, match=r"same total; theirs are 1\.000\d* and \d"):
            transport_problem(cost, a * dtype(1.0001), b)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c, a, b: (c * 1j, a, b), "needs real numbers; the types are complex128"),
            (lambda c, a, b: (c, a + 0j, b), "needs real numbers"),
            (lambda c, a, b: (c, a * np.inf, b * np.inf), "must be positive and finite"),
            (
                lambda c, a, b: (c, np.where(a == a.max(), np.nan, a), b),
                "must be positive and finite",
            ),
            (lambda c, a, b: (c[:0], a[:0], b), "at least one source and one target"),
            (lambda c, a, b: (np.array([["x"]]), a[:1], b[:1]), "needs real numbers"),
        ],
    )
    def test_mistakes(self, change, message):
        cost, a, b = self.problem(n=4)
        with pytest.raises(DataError, match=message):
            transport_problem(*change(cost, a / a.sum(), b / b.sum()))

    def test_what_single_precision_cannot_hold(self):
        cost, a, b = self.problem(n=4)
        with pytest.raises(DataError, match=r"a number of 1e\+40, more than float32 can hold"):
            transport_problem(
                cost / cost.max() * 1e40, a / a.sum(), b / b.sum(), dtype=torch.float32
            )

    def test_lists_and_whole_numbers(self):
        problem = transport_problem([[0, 1], [1, 0]], [1, 3], [2, 2])
        assert problem.row_marginal.tolist() == [1, 3]
        assert problem.column_marginal.tolist() == [2, 2]
