"""A matrix on disk against the same in memory; what it refuses; damaged and hostile files."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_close, randn

from newton_krylov.data.on_disk import OnDisk, Piece, Shard
from newton_krylov.data.shards import read_shards, write_shards
from newton_krylov.errors import DataError, UnsupportedError
from newton_krylov.objectives.features import Features

N, D = 101, 13


def matrix(n=N, d=D, seed=0):
    rng = np.random.default_rng(seed)
    X = sp.random_array((n, d), density=0.3, rng=rng, format="csr")
    X.data -= 0.5
    return X


def written(folder, X, dtype="float64", shard_bytes=500, part=17):
    """Write X in parts and open it again: some ten shards."""
    y = np.arange(X.shape[0]) % 2
    parts = [(X[k : k + part], y[k : k + part]) for k in range(0, X.shape[0], part)]
    write_shards(
        folder, {"train": parts}, task="binary", source="here", n_features=X.shape[1],
        dtype=dtype, shard_bytes=shard_bytes,
    )  # fmt: skip
    return folder


@pytest.fixture(params=["whole", "cut"])
def pair(request, tmp_path):
    """The matrix on disk and the same in memory, whole or rows 7 to 92 of it."""
    X = matrix()
    X = sp.csr_array(sp.vstack([X[:5], sp.csr_array((4, D)), X[9:]], format="csr"))  # empty rows
    disk = read_shards(written(tmp_path / "s", X), torch.float64).train.X
    if request.param == "cut":
        return disk[7:93], torch.from_numpy(X[7:93].toarray())
    return disk, torch.from_numpy(X.toarray())


def test_it_is_a_tensor_to_who_asks_for_its_kind(pair):
    disk, X = pair
    assert isinstance(disk, torch.Tensor)
    assert isinstance(disk, OnDisk)
    assert disk.shape == X.shape
    assert (disk.dtype, disk.device) == (torch.float64, torch.device("cpu"))
    assert len(disk) == len(X)
    assert len(disk.pieces) > 5
    assert f"shape={tuple(X.shape)}" in repr(disk)
    assert disk.nnz == torch.count_nonzero(X).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_products(pair, dtype, columns):
    disk, X = pair
    disk, X = disk.to(dtype), X.to(dtype)
    v, u = randn(D, *columns, seed=1).to(dtype), randn(len(X), *columns, seed=2).to(dtype)
    rtol = 1e-5 if dtype is torch.float32 else 1e-13
    for product, expected in ((disk @ v, X @ v), (disk.T @ u, X.T @ u)):
        assert product.dtype is dtype
        assert_close(product, expected, rtol)
    assert disk.T.shape == (D, len(X))
    assert_close(disk.square() @ v, X.square() @ v, rtol)
    assert_close(disk.square().T @ u, X.square().T @ u, rtol)
    assert_close(disk.square().sum(1), X.square().sum(1), rtol)


def test_gram(pair):
    disk, X = pair
    weights = randn(len(X), seed=3)
    assert_close(disk.gram(weights), X.T @ (weights[:, None] * X), 1e-13)


@pytest.mark.parametrize(
    "index", [[0], [3, 1, 1, 80], [], list(range(85, -1, -1)), [84, 2, 50, 2, 0]]
)
def test_rows_in_any_order(pair, index):
    disk, X = pair
    rows = disk[torch.tensor(index, dtype=torch.int64)]
    assert rows.layout is torch.sparse_csr
    assert torch.equal(rows.to_dense(), X[index])


@given(
    st.tuples(st.integers(0, N), st.integers(0, N)),
    st.tuples(st.integers(-9, N), st.integers(0, N)),
)
@settings(max_examples=50, deadline=None)
def test_slices_of_slices(tmp_path_factory, outer, inner):
    X = matrix()
    folder = tmp_path_factory.getbasetemp() / "sliced"
    if not folder.exists():
        written(folder, X)
    disk = read_shards(folder, torch.float64).train.X
    found = disk[outer[0] : outer[1]][inner[0] : inner[1]]
    expected = X.toarray()[outer[0] : outer[1]][inner[0] : inner[1]]
    assert found.shape == expected.shape
    v = np.linspace(-1, 1, D)
    assert np.allclose(found @ torch.from_numpy(v), expected @ v, atol=1e-14)


def test_a_slice_with_steps_is_read(pair):
    disk, X = pair
    assert torch.equal(disk[3:30:4].to_dense(), X[3:30:4])


def test_features_stream_through_it(pair):
    disk, X = pair
    streamed, features = Features(disk), Features(X)
    weights = randn(len(X), seed=5)
    index = torch.tensor([4, 60, 8])
    assert len(streamed) == len(features)
    assert_close(streamed.gram(weights), features.gram(weights), 1e-13)
    assert torch.equal(streamed.gram(weights), streamed.gram(weights).T)
    assert_close(streamed.column_square_sums(weights), features.column_square_sums(weights), 1e-13)
    assert_close(streamed.row_square_norms, features.row_square_norms, 1e-13)
    assert torch.equal(streamed.rows(index).X.to_dense(), X[index])


@pytest.mark.parametrize(
    "use",
    [
        lambda X: X + 1,
        lambda X: X.cpu().numpy(),
        lambda X: X.sum(0),
        lambda X: X.to_dense(),
        torch.linalg.svd,
        lambda X: torch.randn(2, 101, dtype=torch.float64) @ X,
    ],
)
def test_what_needs_it_in_memory_is_refused_in_a_sentence(tmp_path, use):
    disk = read_shards(written(tmp_path / "s", matrix()), torch.float64).train.X
    with pytest.raises(UnsupportedError, match=r"on disk"):
        use(disk)


def test_it_stays_where_it_is(pair):
    disk, _ = pair
    assert disk.clone() is disk
    assert disk.double().dtype is torch.float64
    assert disk.to(torch.device("cpu")).dtype is torch.float64
    with pytest.raises(UnsupportedError, match="streams through the processor; choose device=cpu"):
        disk.to("meta")


def test_a_shard_larger_than_the_others_is_cut(tmp_path):
    folder = written(tmp_path / "s", matrix(), part=N)
    disk = read_shards(folder, torch.float64).train.X
    assert max(piece.shard.nnz for piece in disk.pieces) * 12 < 1500
    assert np.array_equal(disk @ torch.eye(D, dtype=torch.float64), matrix().toarray())


def test_values_in_float32_take_half_of_the_disk(tmp_path):
    folder = written(tmp_path / "s", matrix(), dtype="float32")
    disk = read_shards(folder, torch.float64).train.X
    assert np.load(disk.pieces[0].shard.path("values")).dtype == np.float32
    product = disk @ torch.ones(D, dtype=torch.float64)
    assert product.dtype is torch.float64
    assert_close(
        product, torch.from_numpy(matrix().astype(np.float32).toarray()).double().sum(1), 1e-12
    )


# Files that anybody may have written.


@pytest.fixture
def shard(tmp_path):
    X = matrix(6, 5)
    for part, array in zip(
        ("values", "columns", "starts"),
        (X.data, X.indices.astype(np.int32), X.indptr.astype(np.int32)),
        strict=True,
    ):
        np.save(tmp_path / f"00000.{part}.npy", array)
    made = Shard(tmp_path, 0, 6, X.nnz, 5, "float64")
    assert len(made.check()) == 64
    return made


def change(shard, part, place, value):
    array = np.load(shard.path(part))
    array[place] = value
    np.save(shard.path(part), array)


@pytest.mark.parametrize(
    ("part", "place", "value", "problem"),
    [
        ("columns", 2, 5, "it names a column beyond the 5 there are"),
        ("columns", 2, -1, "it names a column beyond the 5 there are"),
        ("columns", 2, 2**31 - 1, "it names a column beyond"),
        ("starts", 0, 1, "its rows do not follow one another"),
        ("starts", 3, 2**31 - 1, "its rows do not follow one another"),
        ("starts", -1, 99, "its rows do not follow one another"),
        ("starts", 2, -5, "its rows do not follow one another"),
        ("values", 1, np.nan, "it holds a value that is not finite"),
        ("values", 1, -np.inf, "it holds a value that is not finite"),
    ],
)
def test_nothing_in_a_shard_is_believed(shard, part, place, value, problem):
    change(shard, part, place, value)
    with pytest.raises(DataError, match=f"shard 0, is damaged: {problem}"):
        shard.check()


def test_a_row_whose_columns_do_not_ascend(shard):
    starts = np.load(shard.path("starts"))
    row = int(np.argmax(np.diff(starts)))
    first = starts[row]
    columns = np.load(shard.path("columns"))
    change(shard, "columns", first + 1, columns[first])
    with pytest.raises(DataError, match="a row's columns do not ascend"):
        shard.check()


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("part", ["values", "columns", "starts"])
@pytest.mark.parametrize(
    "content",
    [np.zeros(3), np.zeros((2, 2)), np.zeros(14, np.int64), np.array([Evil()], dtype=object)],
)
def test_files_of_another_kind(shard, part, content):
    np.save(shard.path(part), content, allow_pickle=True)
    with pytest.raises(DataError, match=rf"00000\.{part}\.npy (holds|cannot be read)"):
        shard.check()


def test_a_missing_and_a_truncated_file(shard):
    whole = shard.path("values").read_bytes()
    for content in (b"", whole[:50], whole[:-1]):
        shard.path("values").write_bytes(content)
        with pytest.raises(DataError, match=r"values\.npy cannot be read"):
            shard.check()
    shard.path("values").unlink()
    with pytest.raises(DataError, match=r"values\.npy cannot be read"):
        shard.check()


@given(st.sampled_from(["values", "columns", "starts"]), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_flipped_byte_never_leads_out_of_the_matrix(tmp_path_factory, part, place, value):
    """What passes the check can be multiplied by without harm."""
    folder = tmp_path_factory.mktemp("flip")
    X = matrix(6, 5)
    arrays = {"values": X.data, "columns": X.indices.astype("i4"), "starts": X.indptr.astype("i4")}
    for name, array in arrays.items():
        np.save(folder / f"00000.{name}.npy", array)
    shard = Shard(folder, 0, 6, X.nnz, 5, "float64")
    content = bytearray(shard.path(part).read_bytes())
    content[place % len(content)] ^= value
    shard.path(part).write_bytes(content)
    try:
        shard.check()
    except DataError as error:
        assert "\n" not in str(error)
        return
    found = OnDisk([Piece(shard, 0, 6)], torch.float64)
    assert torch.isfinite(found @ torch.zeros(5, dtype=torch.float64)).all()
