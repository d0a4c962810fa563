"""The order of samples that makes sparse products fast."""

import torch

from newton_krylov.data.dataset import Split
from newton_krylov.data.sparse import by_row_length


def test_rows_are_ordered_by_length_with_their_targets() -> None:
    dense = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 6.0]])
    ordered = by_row_length(Split(dense.to_sparse_csr(), torch.tensor([0, 1, 2, 3])))
    assert ordered.y.tolist() == [2, 1, 3, 0]
    torch.testing.assert_close(ordered.X.to_dense(), dense[ordered.y])
    assert ordered.X.crow_indices().dtype is torch.int32


def test_what_is_in_order_or_dense_is_left_alone() -> None:
    dense = Split(torch.eye(3), torch.arange(3))
    assert by_row_length(dense) is dense
    sparse = Split(torch.eye(3).to_sparse_csr(), torch.arange(3))
    assert by_row_length(sparse) is sparse
