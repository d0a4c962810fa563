"""Loss and accuracy of a split: right, deterministic, one pass, and less where little changes."""

import pytest
import torch
import torch.nn.functional as F
from networks import network, samples
from problems import assert_close, randn, ulps
from torch import nn

from newton_krylov.data.dataset import Split
from newton_krylov.objectives.network.objective import Network

RTOL = ulps(torch.float64)


class Counting(nn.Module):
    """Counts the samples that pass, over all copies of itself."""

    passed = 0

    def forward(self, x):
        Counting.passed += len(x)
        return x


def counting(memory: float = 1e9) -> Network:
    X, y = samples()
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 5), Counting(), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)
    ).double()
    return Network(net, F.cross_entropy, X, y, chunk=7, memory=memory)


def other_split(n: int = 11) -> Split:
    return Split(randn(n, 1, 4, 4, seed=8), torch.arange(n) % 3)


def passed(operation):
    before = Counting.passed
    operation()
    return Counting.passed - before


def expected(f, w, split):
    """By the textbook: dropout off, all at once."""
    W1, b1, W2, b2 = f.layout.views(w)
    z = torch.tanh(split.X.flatten(1) @ W1.T + b1) @ W2.T + b2
    return F.cross_entropy(z, split.y), (z.argmax(1) == split.y).double().mean()


def test_loss_and_accuracy_are_the_textbook_s_on_any_split():
    f = counting()
    w = f.initial() + randn(f.dim, seed=1)
    for split in (Split(*samples()), other_split()):
        loss, accuracy = expected(f, w, split)
        for objective in (f, f.subset(torch.tensor([3, 4]), noise=1)):
            assert_close(objective.data_loss(w, split), loss, RTOL)
            assert_close(objective.accuracy(w, split), accuracy, RTOL)


def test_a_restriction_evaluates_the_whole_network():
    f = counting()
    w = f.initial() + randn(f.dim, seed=1)
    part = f.restricted(["5"], w)
    v = part.initial() - 0.5
    split = other_split()
    assert part.evaluate(v, split) == f.evaluate(part.embed(v), split)


def test_loss_and_accuracy_of_a_split_are_one_pass():
    f, split = counting(), other_split()
    w = f.initial()
    assert passed(lambda: (f.accuracy(w, split), f.data_loss(w, split), f.accuracy(w, split))) == 11
    train = Split(*samples())
    f = Network(f._module, F.cross_entropy, train.X, train.y, chunk=7)
    assert passed(lambda: (f.at(w).value, f.accuracy(w, train))) == 20
    assert passed(lambda: f.accuracy(w, split)) == 11
    assert passed(lambda: f.accuracy(w.clone(), split)) == 11


def test_evaluations_count_nothing_beyond_the_value():
    f, split = counting(), other_split()
    _ = f.evaluate(f.initial(), split)
    assert (f.counts.function, f.counts.passes) == (0, 0)


@pytest.mark.parametrize(("memory", "cost"), [(1e9, [11, 11, 0, 0]), (1.0, [11, 11, 11, 11])])
def test_where_only_the_last_layer_changes_the_others_are_computed_no_more(memory, cost):
    f, split = counting(memory), other_split()
    w, block = f.initial(), f.blocks["5"]
    ws = []
    for seed in range(4):
        w = w.clone()
        w[block] += randn(block.stop - block.start, seed=seed)
        ws.append(w)
    assert [passed(lambda w=w: f.evaluate(w, split)) for w in ws] == cost
    for w in ws:
        assert_close(f.evaluate(w, split)[0], expected(f, w, split)[0], RTOL)


def test_a_change_in_front_is_seen_whatever_was_kept():
    f, split = counting(), other_split()
    w = f.initial()
    for seed, layer in enumerate(["5", "5", "5", "1", "5", "5", "1", "1"]):
        w = w.clone()
        block = f.blocks[layer]
        w[block] += randn(block.stop - block.start, seed=seed)
        loss, accuracy = expected(f, w, split)
        assert_close(f.evaluate(w, split)[0], loss, RTOL)
        assert_close(f.evaluate(w, split)[1], accuracy, RTOL)


def test_batch_norm_takes_the_statistics_of_the_training_samples_at_the_weights():
    X, y = samples()
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    f, split = Network(net, F.cross_entropy, X, y, chunk=4), other_split()
    w = f.initial() + randn(f.dim, seed=1)
    W, b, gain, shift, V, c = f.layout.views(w)
    train, test = (F.conv2d(x, W, b) for x in (X, split.X))
    variance, mean = torch.var_mean(train, (0, 2, 3), correction=0)
    normed = F.batch_norm(test, mean, variance, gain, shift, False, 0.0, net[1].eps)
    z = normed.flatten(1) @ V.T + c
    assert_close(f.data_loss(w, split), F.cross_entropy(z, split.y), RTOL)
    # No more depends on what was evaluated before than on the split's size.
    _ = f.at(w).grad, f.evaluate(w, Split(X, y))
    half = Split(split.X[:5], split.y[:5])
    assert_close(f.data_loss(w, half), F.cross_entropy(z[:5], split.y[:5]), RTOL)


def test_the_value_of_a_network_with_batch_norm_is_that_of_its_spans():
    f = network("normed")
    X, y = samples()
    w = f.initial()
    assert f.at(w).value != f.evaluate(w, Split(X, y))[0]
    assert_close(
        f.at(w).grad, sum(f.at(w).subset(torch.arange(a, a + 10)).grad / 2 for a in (0, 10)), RTOL
    )
