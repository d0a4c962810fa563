"""Labels of any numbers become class indices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newton_krylov.data.labels import MAX_CLASSES, LabelError, encode_labels


def encode(*parts, task="auto"):
    return encode_labels([np.array(part, dtype=float) for part in parts], task)


@pytest.mark.parametrize("labels", [(-1, 1), (0, 1), (1, 2), (3.5, 7), (-2, -1)])
def test_the_larger_of_two_labels_is_class_1(labels):
    small, large = labels
    encoded, task, n_classes = encode([large, small, large])
    assert encoded[0].tolist() == [1, 0, 1]
    assert encoded[0].dtype == np.int64
    assert (task, n_classes) == ("binary", 2)


def test_classes_are_those_of_all_parts():
    (train, test), task, n_classes = encode([5, 9, 9], [7, 5])
    assert train.tolist() == [0, 2, 2]
    assert test.tolist() == [1, 0]
    assert (task, n_classes) == ("multiclass", 3)


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([0.5, 1.25, 2], "regression"),
        (list(range(MAX_CLASSES)), "multiclass"),
        (list(range(MAX_CLASSES + 1)), "regression"),
        ([1, 2, 3], "multiclass"),
        ([0.5, 0.25], "binary"),
    ],
)
def test_the_task_is_decided_by_the_labels(labels, task):
    assert encode(labels)[1] == task


def test_a_regressions_labels_stay_as_they_are():
    encoded, task, n_classes = encode([1, 2, 2], task="regression")
    assert encoded[0].tolist() == [1, 2, 2]
    assert (task, n_classes) == ("regression", 0)


@pytest.mark.parametrize(
    ("parts", "task", "problem", "part", "sample"),
    [
        (([1, 2, 3],), "binary", "has the label 3, a third beside 1 and 2; binary has two", 0, 2),
        (([2, 1], [1, 0]), "binary", "has the label 0, a third beside 1 and 2", 1, 1),
        (([1, 2, 2.5],), "multiclass", "has the label 2.5, which is not a whole number", 0, 2),
        (([4, 4],), "auto", "has the label 4, as every sample has", 0, 0),
        (([4, 4],), "multiclass", "has the label 4, as every sample has", 0, 0),
    ],
)
def test_labels_that_do_not_fit_are_told_by_their_place(parts, task, problem, part, sample):
    with pytest.raises(LabelError) as error:
        encode(*parts, task=task)
    assert problem in error.value.problem
    assert (error.value.part, error.value.sample) == (part, sample)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=80).filter(lambda v: len(set(v)) > 1))
def test_indices_keep_the_order_of_the_labels_and_are_all_used(labels):
    (encoded,), _, n_classes = encode(labels)
    assert set(encoded) == set(range(n_classes))
    order = np.argsort(labels, kind="stable")
    assert (np.diff(encoded[order]) >= 0).all()
    assert [sorted(set(labels))[k] for k in encoded] == labels
