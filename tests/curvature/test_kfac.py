"""K-FAC and EKFAC: exact where they must be, curvlinops elsewhere, and their closed forms."""

import curvlinops
import pytest
import torch
from layer_networks import CASES, Tokens, deep, images, objective
from networks import network
from optimizer_parts import Largest
from problems import assert_close, randn
from torch import nn

from newton_krylov.curvature.kfac import EKFAC, KFAC
from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.operators import MatrixOperator
from newton_krylov.preconditioners.kfac import KFACPreconditioner

DRAWS = 3000
NEAR = 0.1
"""Five standard deviations of a mean of so many draws, or more."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blocks_of(f, matrix):
    """Keep the diagonal blocks that belong to the same layer."""
    out = torch.zeros_like(matrix)
    for place in f.blocks.values():
        out[place, place] = matrix[place, place]
    return out


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("bias", [True, False])
def test_of_a_deep_linear_network_with_squared_loss_it_is_the_gauss_newton_matrix_by_blocks(
    kind, bias
):
    """The Jacobian behind a layer and the loss's Hessian are the same for all samples."""
    x, y = randn(11, 4, seed=1), randn(11, 3, seed=2)
    f = objective(deep(nn.Identity(), 4, 5, 3, bias=bias), nn.MSELoss(), x, y, l2=0.1, chunk=4)
    point = f.at(f.initial())
    expected = blocks_of(f, point.gauss_newton().dense())
    A = kind("ggn").at(point, generator())
    assert_close(A.dense(), expected, 1e-12)
    assert_close(A.diagonal(), expected.diagonal(), 1e-12)
    drawn = kind("mc", draws=DRAWS).at(point, generator())
    assert_close(drawn.dense(), expected, NEAR)


def test_of_one_linear_layer_with_gaussian_targets_a_newton_step_ends_at_the_minimum():
    x, y = randn(30, 5, seed=1), randn(30, 2, seed=2)
    f = objective(nn.Linear(5, 2), nn.MSELoss(), x, y)
    point = f.at(f.initial())
    A = KFAC("ggn").at(point, generator())
    assert f.at(point.w - A.solve(point.grad)).grad_norm < 1e-12 * point.grad_norm


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_of_shared_weights_it_is_exact_where_the_setting_is_its_own(sharing):
    """Eschenhagen et al.: each token has a loss (expand), or their mean has one (reduce)."""
    x = randn(7, 5, 3, seed=1)
    if sharing == "reduce":
        module, y = Tokens(nn.Identity()), randn(7, 2, seed=2)
    else:
        module, y = deep(nn.Identity(), 3, 4, 2), randn(7, 5, 2, seed=2)
    f = objective(module, nn.MSELoss(), x, y)
    point = f.at(f.initial())
    expected = blocks_of(f, point.gauss_newton().dense())
    A = KFAC("ggn", sharing=sharing).at(point, generator())
    assert_close(A.dense(), expected, 1e-12)
    other = "expand" if sharing == "reduce" else "reduce"
    assert float((KFAC("ggn", sharing=other).at(point, generator()).dense() - expected).norm()) > (
        0.1 * float(expected.norm())
    )


UNIQUE = [
    (case, sharing, kind)
    for case in CASES
    for sharing in ("expand", "reduce")
    for kind in (KFAC, EKFAC)
    # Five rows of pixels, stride 2: the kernel's first and last row meet the same pixels (1 and 3),
    # so their means over the positions are equal, A has eigenvalue 0 several times, its
    # eigenvectors there are any, and EKFAC's eigenvalues depend on which.
    if not (kind is EKFAC and sharing == "reduce" and CASES[case][1] == (2, 5, 6))
]


@pytest.mark.parametrize(("case", "sharing", "kind"), UNIQUE)
@pytest.mark.parametrize("fisher", ["ggn", "empirical"])
def test_it_is_that_of_curvlinops(case, sharing, fisher, kind):
    torch.manual_seed(0)
    build, shape, classes = CASES[case]
    module = build().double()
    x, y = randn(25, *shape, seed=1), torch.arange(25) % classes  # inputs of full rank
    f = objective(module, nn.CrossEntropyLoss(), x, y)
    A = kind(fisher, sharing=sharing).at(f.at(f.initial()), generator())
    names = {"ggn": curvlinops.FisherType.TYPE2, "empirical": curvlinops.FisherType.EMPIRICAL}
    approx = curvlinops.KFACType.EXPAND if sharing == "expand" else curvlinops.KFACType.REDUCE
    peer = {KFAC: curvlinops.KFACLinearOperator, EKFAC: curvlinops.EKFACLinearOperator}[kind]
    parameters = list(module.parameters())
    expected = peer(
        module, nn.CrossEntropyLoss(), parameters, [(x, y)],
        fisher_type=names[fisher], kfac_approx=approx, separate_weight_and_bias=False,
    ) @ torch.eye(f.dim, dtype=torch.float64)  # fmt: skip
    assert_close(A.dense(), expected, 1e-10)


class Rearranged(nn.Module):
    """Linear layers or convolutions on sequences, whose axes are joined or turned before them."""

    def __init__(self, before, layer, after, last):
        super().__init__()
        self.before, self.layer, self.after, self.last = before, layer, after, last

    def forward(self, x):
        return self.last(self.after(torch.tanh(self.layer(self.before(x)))))


def in_sequences(before, after):
    return lambda: Rearranged(before, nn.Linear(3, 4), after, nn.Linear(4, 2))


JOINED = in_sequences(lambda x: x.reshape(-1, 3), lambda h: h.view(-1, 6, 4).mean(1))
PLAIN = in_sequences(lambda x: x, lambda h: h.mean(1))
TURNED = in_sequences(lambda x: x.transpose(0, 1), lambda h: h.mean(0))
TURNED_JOINED = in_sequences(
    lambda x: x.transpose(0, 1).reshape(-1, 3), lambda h: h.view(6, -1, 4).mean(0)
)


def curvature_of(build, kind, x, **options):
    torch.manual_seed(0)
    f = objective(build(), nn.CrossEntropyLoss(), x, torch.arange(len(x)) % 2)
    made = kind("ggn", **options)
    point = f.at(f.initial())
    return made.at(point, generator()).dense(), point.gauss_newton().dense(), made.note


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_sequences_joined_to_one_axis_are_those_of_the_samples(kind, sharing):
    x = randn(9, 6, 3, seed=1)
    expected, _, _ = curvature_of(PLAIN, kind, x, sharing=sharing)
    found, _, note = curvature_of(JOINED, kind, x, sharing=sharing)
    assert_close(found, expected, 1e-12)
    assert not note


@pytest.mark.parametrize("build", [TURNED, TURNED_JOINED])
@pytest.mark.parametrize("n", [6, 9, 2])
def test_positions_before_samples_are_not_taken_for_samples(build, n):
    """Also where there are as many of the ones as of the others."""
    x = randn(n, 6, 3, seed=1)
    found, ggn, note = curvature_of(build, EKFAC, x)
    assert note == "diagonal alone: layer.weight, layer.bias"
    last = slice(-10, None)
    assert_close(found[last, last].trace(), ggn[last, last].trace(), 1e-12)
    with pytest.raises(UnsupportedError, match=r"layer\.weight"):
        curvature_of(build, KFAC, x, unknown="refuse")


def test_of_a_loss_that_is_linear_in_the_outputs_the_gauss_newton_matrix_is_zero():
    f = objective(
        deep(nn.Tanh(), 4, 5, 3).append(nn.LogSoftmax(1)),
        nn.NLLLoss(), randn(9, 4, seed=1), torch.arange(9) % 3,
    )  # fmt: skip
    point = f.at(f.initial())
    for kind in (KFAC, EKFAC):
        assert not kind("ggn").at(point, generator()).dense().any()
        assert kind("mc").at(point, generator()).dense().any()


@pytest.mark.parametrize("case", ["mlp", "cnn", "looped", "normed"])
@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("fisher", ["mc", "empirical"])
def test_its_closed_form_solves_the_damped_system(case, kind, fisher):
    f = network(case, l2=0.01)
    A = kind(fisher).at(f.at(f.initial()), generator())
    dense, b = A.dense(), randn(f.dim, seed=3)
    shifted = dense + 0.3 * torch.eye(f.dim, dtype=dense.dtype)
    assert_close(A.solve(b, 0.3), torch.linalg.solve(shifted, b), 1e-9)
    assert_close(A.diagonal(), dense.diagonal(), 1e-12)


def test_a_wide_layer_s_inputs_stay_rows_and_the_closed_form_reaches_beyond_them():
    x, y = randn(6, 50, seed=1), torch.arange(6) % 3
    f = objective(deep(nn.Tanh(), 50, 4, 3), nn.CrossEntropyLoss(), x, y)
    point = f.at(f.initial())
    passes = point.kronecker_passes(KFAC("ggn").how, generator())
    assert [len(one.rows) > 0 for one in passes.factors().inputs.values()] == [True, False]
    for kind in (KFAC, EKFAC):
        A = kind("ggn").at(point, generator())
        dense, b = A.dense(), randn(f.dim, seed=3)
        shifted = dense + 0.3 * torch.eye(f.dim, dtype=dense.dtype)
        assert_close(A.solve(b, 0.3), torch.linalg.solve(shifted, b), 1e-9)


@pytest.mark.parametrize("fisher", ["ggn", "empirical"])
def test_wide_layers_have_a_diagonal_for_their_outputs_and_some_rows_for_their_inputs(fisher):
    x, y = randn(9, 4, seed=1), torch.arange(9) % 3
    f = objective(deep(nn.Tanh(), 4, 6, 3), nn.CrossEntropyLoss(), x, y, l2=0.1)
    point, v = f.at(f.initial()), randn(f.dim, seed=3)
    passes = point.kronecker_passes(KFAC(fisher).how, generator())
    factors, rows = passes.factors(), passes.rows()
    narrow = KFAC(fisher, window=5)
    A = narrow.at(point, generator())
    expected, parts = 0.1 * v, f.passes.split(v)
    for layer, B in factors.gradients.items():
        V, own = layer.joined(parts), torch.zeros(f.dim).double()
        spread = rows[layer][0].flatten(0, 1)[::2]  # five of nine
        wide = len(B) > 5, V.shape[1] > 5
        left = torch.diag(B.diagonal()) if wide[0] else B
        right = spread.T @ spread / 5 if wide[1] else factors.inputs[layer].matrix()
        layer.separate(left @ V @ right, f.passes.split(own))
        expected = expected + own
        assert any(wide)
    assert_close(A @ v, expected, 1e-12)
    assert narrow.note == "wider than window: 0.weight, 2.weight"
    for kind in (KFAC, EKFAC):
        A = kind(fisher, window=5).at(point, generator())
        shifted = A.dense() + 0.3 * torch.eye(f.dim).double()
        assert_close(A.solve(v, 0.3), torch.linalg.solve(shifted, v), 1e-9)
        assert_close(A.diagonal(), A.dense().diagonal(), 1e-12)
    matrix = point.gauss_newton() if fisher == "ggn" else point.empirical_fisher()
    place = f.blocks["0"]  # EKFAC has the trace in any basis of the whole space
    own, block = A.dense()[place, place], matrix.dense()[place, place]
    assert_close(own.trace(), block.trace(), 1e-12)
    assert float((own - block).norm()) < float((block - torch.diag(block.diagonal())).norm())


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_no_matrix_is_as_large_as_a_wide_layer_s_sides(kind):
    x, y = randn(40, 4, seed=1), torch.arange(40) % 3
    f = objective(deep(nn.Tanh(), 4, 300, 3), nn.CrossEntropyLoss(), x, y)
    with Largest() as seen:
        A = kind(window=16).at(f.at(f.initial()), generator())
        A.solve(A @ A.diagonal(), 0.1)
    assert seen.numbers < 300 * 300 / 5


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_ekfac_has_the_blocks_own_diagonal_in_its_basis(sharing):
    """So it is nearer to the blocks than K-FAC is, in the Frobenius norm."""
    f = objective(images(), nn.CrossEntropyLoss(), randn(9, 2, 5, 6, seed=1), torch.arange(9) % 3)
    point = f.at(f.initial())
    blocks = blocks_of(f, point.gauss_newton().dense())
    A, B = (kind("ggn", sharing=sharing).at(point, generator()) for kind in (KFAC, EKFAC))
    assert_close(B.dense().trace(), blocks.trace(), 1e-12)
    assert float((B.dense() - blocks).norm()) < float((A.dense() - blocks).norm())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_ekfac_is_its_definition_on_gradients_of_single_samples(case, sharing):
    """George et al., equation 10: E[(U'g)^2] in the eigenbasis U of the factors, by autograd."""
    torch.manual_seed(0)
    build, shape, classes = CASES[case]
    module = build().double()
    x, y = randn(25, *shape, seed=1), torch.arange(25) % classes
    f = objective(module, nn.CrossEntropyLoss(), x, y)
    w = f.initial()
    how = EKFAC("empirical", sharing=sharing)
    point = f.at(w)
    A = how.at(point, generator())
    each = torch.stack([f.subset(torch.tensor([i])).at(w).grad for i in range(25)])
    factors = point.kronecker_passes(how.how, generator()).factors()
    v = randn(f.dim, seed=3)
    applied = f.passes.split(A @ v)
    for block in A.blocks:
        P, Q = block.P, block.Q
        for basis, matrix in (
            (P, factors.gradients[block.layer]), (Q, factors.inputs[block.layer].matrix()),
        ):  # fmt: skip
            rotated = basis.T @ matrix @ basis
            assert_close(rotated, torch.diag(rotated.diagonal()), 1e-12)
            assert_close(basis.T @ basis, torch.eye(len(basis), dtype=torch.float64), 1e-12)
        gradients = [block.layer.joined(f.passes.split(g)) for g in each]
        values = torch.stack([(P.T @ G @ Q).square() for G in gradients]).mean(0)
        V = block.layer.joined(f.passes.split(v))
        assert_close(block.layer.joined(applied), P @ ((P.T @ V @ Q) * values) @ Q.T, 1e-10)


def test_parameters_it_does_not_know_have_their_diagonal_estimated_or_are_refused():
    f = network("normed")
    point = f.at(f.initial())
    curvature = KFAC("ggn")
    draws = [curvature.at(point, generator(seed)).diagonal() for seed in range(400)]
    assert curvature.note == "diagonal alone: norm.weight, norm.bias, block.norm.weight and 1 more"
    own = point.gauss_newton().diagonal()
    norms = [place for layer, place in f.blocks.items() if layer.endswith("norm")]
    for place in norms:
        assert_close(torch.stack(draws).mean(0)[place], own[place], 0.2)
    with pytest.raises(UnsupportedError, match=r"but not how the network uses norm\.weight"):
        KFAC(unknown="refuse").at(point, generator())


def test_a_weight_that_is_used_in_another_way_too_is_not_taken_for_a_layer_s():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.inner = nn.Parameter(torch.randn(5, 4) / 4), nn.Linear(4, 4)

        def forward(self, x):
            h = torch.nn.functional.embedding(x, self.table)
            return torch.nn.functional.linear(self.inner(h.mean(1)).tanh(), self.table)

    torch.manual_seed(0)
    f = objective(Tied(), nn.CrossEntropyLoss(), torch.arange(12).view(4, 3) % 5, torch.arange(4))
    curvature = KFAC()
    A = curvature.at(f.at(f.initial()), generator())
    assert curvature.note == "diagonal alone: table"
    place = f.blocks["table"]
    block = A.dense()[place, place]
    assert_close(block, torch.diag(block.diagonal()), 1e-15)


@pytest.mark.parametrize("corrected", [False, True])
def test_as_a_preconditioner_it_is_the_inverse_where_it_is_exact_and_changes_no_solution(corrected):
    x, y = randn(60, 6, seed=1) * torch.logspace(-2, 2, 6).double(), randn(60, 3, seed=2)
    for module, exact in ((nn.Linear(6, 3), True), (deep(nn.Tanh(), 6, 8, 3), False)):
        f = objective(module, nn.MSELoss(), x, y)
        point = f.at(f.initial())
        A = point.gauss_newton().affine(scale=2.0, shift=1e-2)
        M = KFACPreconditioner(corrected=corrected, fisher="ggn").build(A, generator())
        plain, found = (cg(A, -point.grad, M=P, rtol=1e-9, maxiter=2000) for P in (None, M))
        assert plain.converged and found.converged
        assert_close(found.x, plain.x, 1e-5)
        assert found.iterations <= 2 or not exact


def test_of_another_matrix_there_is_no_such_preconditioner():
    assert KFACPreconditioner().build(MatrixOperator(torch.eye(3)), generator()) is None
