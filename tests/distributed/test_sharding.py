"""Who has which samples, and what cannot be divided."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import make_dataset
from processes import together

from newton_krylov.data import load_dataset
from newton_krylov.data.shards import write_shards
from newton_krylov.data.shards.generate import Generator
from newton_krylov.distributed import data_parallel
from newton_krylov.distributed.objective import _LocalSamples
from newton_krylov.distributed.sharding import numbers_of, shard
from newton_krylov.errors import UnsupportedError
from newton_krylov.registry import entry


def members(size):
    return [SimpleNamespace(rank=rank, size=size) for rank in range(size)]


@given(n=st.integers(1, 500), size=st.integers(1, 20))
def test_parts_are_a_partition_and_differ_by_one_sample_at_most(n, size):
    parts = [numbers_of(torch.empty(n, 1), member) for member in members(size)]
    assert sorted(k for part in parts for k in part) == list(range(n))
    lengths = {len(part) for part in parts}
    assert max(lengths) - min(lengths) <= 1


def test_samples_ordered_by_length_are_divided_evenly():
    """As a run has them: otherwise one process would have the long ones, and the others wait."""
    triangle = make_dataset("regression", X=torch.ones(400, 400).double().tril(), sparse=True)
    first, second = (shard(triangle, member).train.X.values() for member in members(2))
    assert len(first) == pytest.approx(len(second), rel=0.01)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_parts_make_the_whole(sparse, size):
    data = make_dataset("regression", 23, 4, sparse=sparse)
    for member in members(size):
        part, rows = shard(data, member).train, numbers_of(data.train.X, member)
        assert torch.equal(part.X.to_dense(), data.train.X.to_dense()[list(rows)])
        assert torch.equal(part.y, data.train.y[list(rows)])
        if sparse:
            assert part.X.col_indices().dtype is torch.int32
            whole = data.train.X.values().untyped_storage().data_ptr()
            assert part.X.values().untyped_storage().data_ptr() != whole


def test_images_and_a_test_split():
    data = load_dataset("digits_images")
    part = shard(data, members(2)[1])
    assert torch.equal(part.train.X, data.train.X[1::2])
    assert torch.equal(part.test.y, data.test.y[1::2])
    assert part.images == data.images


def test_what_cannot_be_divided():
    three = make_dataset("binary", 3, 2)
    with pytest.raises(UnsupportedError, match="3 training samples are too few for 4 processes"):
        shard(three, SimpleNamespace(rank=0, size=4))
    with pytest.raises(UnsupportedError, match="a transport problem has none"):
        shard(load_dataset("transport", {"n": 4}), SimpleNamespace(rank=0, size=2))


@given(
    n=st.integers(2, 40), size=st.integers(1, 6), draws=st.lists(st.lists(st.floats(0, 1)),
    max_size=3)
)  # fmt: skip
def test_places_of_subsets_of_subsets_partition_them(n, size, draws):
    """Each sample of a subset is in exactly one process, which finds it by its own number."""
    group = []
    for rank in range(size):
        own = torch.tensor(range(rank, n, size), dtype=torch.int64)
        group.append((_LocalSamples(n, own), own))
    samples = torch.arange(n)
    for draw in draws:
        if not draw:
            return
        index = torch.tensor([min(int(u * len(samples)), len(samples) - 1) for u in draw])
        samples = samples[index]
        after = []
        for places, own in group:
            taken, numbers = places.take(index)
            after.append((taken, own[numbers]))
        group = after
        found = torch.full((len(samples),), -1)
        for places, own in group:
            assert bool((found[places.numbers] == -1).all())
            found[places.numbers] = own
        assert torch.equal(found, samples)
        assert sum(places.share for places, _ in group) == pytest.approx(1)


def on_disk(group, folder):
    whole = load_dataset("shards", {"path": folder})
    data = shard(whole, group)
    f = data_parallel(entry("loss", "logistic").target(data, l2=0.1), group, whole.train.X)
    point = f.at(torch.ones(f.dim, dtype=torch.float64))
    index = torch.tensor([399, 0, 200])
    return [point.value, point.grad, point.hessian() @ point.grad, point.subset(index).grad]


def test_data_on_disk_are_divided_and_stay_there(tmp_path):
    parts = {"train": Generator(d=20, density=0.2).parts(400, 0)}
    write_shards(
        tmp_path / "s", parts, task="binary", source="here", n_features=20, shard_bytes=2000
    )
    (alone,) = together(1, on_disk, str(tmp_path / "s"))
    for member in together(2, on_disk, str(tmp_path / "s")):
        for found, expected in zip(member, alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-12)
