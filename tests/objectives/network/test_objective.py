"""A network as one fixed function: its parts, its layers, its batches, and what it leaves alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import BY_NAME, NETWORKS, module, network, samples
from problems import assert_close, make_dataset, randn, ulps
from torch import nn

from newton_krylov.data.dataset import ImageSet, Split
from newton_krylov.data.images import Images
from newton_krylov.errors import CombinationError, ConfigError, UnsupportedError
from newton_krylov.objectives.network.layout import even_spans
from newton_krylov.objectives.network.losses import CrossEntropy, MeanSquaredError
from newton_krylov.objectives.network.objective import Network

RTOL = ulps(torch.float64)
PER_SAMPLE = [case for case in NETWORKS if case.per_sample]
each_network = pytest.mark.parametrize("case", NETWORKS, ids=str)
each_per_sample = pytest.mark.parametrize("case", PER_SAMPLE, ids=str)
each_noise = pytest.mark.parametrize("noise", [None, 5])


def drawn(f, seed=1):
    return f.initial() + 0.3 * randn(f.dim, seed=seed).to(f.dtype)


# -- the flat vector ---------------------------------------------------------------------------


@each_network
def test_blocks_are_the_layers_one_after_the_other(case):
    f, net = network(case), module(case)
    assert list(f.blocks) == list(case.layers)
    start = 0
    for layer in case.layers:
        owner, _, last = layer.rpartition(".")
        part = net.get_submodule(owner) if owner else net
        value = getattr(part, last)
        own = [value] if isinstance(value, nn.Parameter) else list(value.parameters())
        flat = torch.cat([p.detach().reshape(-1) for p in own])
        assert f.blocks[layer] == slice(start, start + len(flat))
        assert torch.equal(f.initial()[f.blocks[layer]], flat)
        start += len(flat)
    assert f.dim == start


@each_network
def test_a_restriction_starts_where_it_was_made(case):
    f = network(case)
    w = drawn(f)
    for layer in case.layers:
        part = f.restricted([layer, layer], w)
        assert torch.equal(part.initial(), w[f.blocks[layer]])
        part.initial().zero_()
        assert torch.equal(part.initial(), w[f.blocks[layer]])
    f.initial().zero_()
    assert f.initial().any()


def test_a_network_without_weights_is_refused():
    with pytest.raises(UnsupportedError, match="no weights"):
        Network(nn.Flatten(), F.cross_entropy, *samples())


def test_weights_of_another_length_are_refused():
    f = network("mlp")
    with pytest.raises(ValueError, match=rf"expected w of shape \({f.dim},\)"):
        f.at(torch.zeros(f.dim - 1))


@given(st.integers(1, 400), st.integers(1, 90), st.sampled_from([1, 7, 64]))
def test_spans_cover_the_samples_in_order_and_none_is_too_long(n, size, unit):
    spans = even_spans(n, size, unit)
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert spans[-1][1] == n
    assert all(0 < b - a <= size for a, b in spans)
    if size >= unit:
        assert all(a % unit == 0 for a, _ in spans)
    if unit == 1:
        lengths = [b - a for a, b in spans]
        assert max(lengths) - min(lengths) <= 1


# -- one function -------------------------------------------------------------------------------


@each_network
@each_noise
def test_a_value_depends_on_nothing_that_was_evaluated_before(case, noise):
    everything = torch.arange(20)
    f = network(case).subset(everything, noise=noise)
    w = drawn(f)
    first = f.at(w).value, f.at(w).grad, f.at(w).hessian() @ w
    _ = f.subset(torch.tensor([3, 1])).at(w).value, f.subset(everything, noise=9).at(w).value
    again = network(case).subset(everything, noise=noise)
    for g in (f, again):
        assert g.at(w).value == first[0]
        assert torch.equal(g.at(w).grad, first[1])
        assert torch.equal(g.at(w).hessian() @ w, first[2])


@each_per_sample
@each_noise
@pytest.mark.parametrize("chunk", [1, 3, 20, 1000, None])
def test_the_number_of_samples_in_a_pass_changes_rounding_alone(case, noise, chunk):
    everything = torch.arange(20)
    f = network(case, l2=0.1).subset(everything, noise=noise)
    g = network(case, l2=0.1, chunk=chunk).subset(everything, noise=noise)
    w = drawn(f)
    assert f.passes.spans != g.passes.spans
    assert_close(g.at(w).value, f.at(w).value, RTOL)
    assert_close(g.at(w).grad, f.at(w).grad, RTOL)
    assert_close(g.at(w).gauss_newton() @ w, f.at(w).gauss_newton() @ w, RTOL)


@each_per_sample
@each_noise
@settings(deadline=None, max_examples=10)
@given(permutation=st.permutations(range(20)), cut=st.integers(1, 19))
def test_the_whole_is_the_mean_of_its_parts(case, noise, permutation, cut):
    f = network(case, l2=0.1).subset(torch.arange(20), noise=noise)
    w = drawn(f)
    index = torch.tensor(permutation)
    parts = f.at(w).subset(index[:cut]), f.at(w).subset(index[cut:])
    weights = cut / 20, 1 - cut / 20
    value = sum(s * part.value for s, part in zip(weights, parts, strict=True))
    gradient = sum(s * part.grad for s, part in zip(weights, parts, strict=True))
    assert_close(value, f.at(w).value, RTOL)
    assert_close(gradient, f.at(w).grad, RTOL)


@each_per_sample
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_subset_of_a_subset_is_the_subset_of_both(case, data):
    numbers = st.lists(st.integers(0, 19), min_size=2, max_size=12)
    outer = torch.tensor(data.draw(numbers))
    inner = torch.tensor(data.draw(st.lists(st.integers(0, len(outer) - 1), min_size=1)))
    f = network(case).subset(torch.arange(20), noise=3)
    w = drawn(f)
    assert_close(
        f.subset(outer).subset(inner).at(w).value, f.subset(outer[inner]).at(w).value, RTOL
    )


# -- layers -------------------------------------------------------------------------------------


def free(f, layers):
    """The places of some layers in f's vector."""
    return torch.cat([torch.arange(f.dim)[f.blocks[name]] for name in f.blocks if name in layers])


@each_network
@each_noise
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_a_restriction_is_the_whole_with_the_others_held(case, noise, data):
    layers = data.draw(st.lists(st.sampled_from(case.layers), min_size=1, unique=True))
    f = network(case, l2=0.1).subset(torch.arange(20), noise=noise)
    w = drawn(f)
    _ = f.at(w).value  # what it keeps must not be taken for the restriction's
    part, index = f.restricted(layers, w), free(f, layers)
    assert set(part.blocks) == set(layers)
    changed = w[index] + randn(len(index), seed=7)
    whole = w.clone()
    whole[index] = changed
    assert torch.equal(part.embed(changed), whole)
    assert_close(part.at(changed).value, f.at(whole).value, RTOL)
    assert_close(part.at(changed).grad, f.at(whole).grad[index], RTOL)
    small = torch.tensor([4, 11, 0])
    assert_close(part.at(changed).subset(small).value, f.at(whole).subset(small).value, RTOL)


@each_network
@each_noise
def test_restricting_and_choosing_a_batch_commute(case, noise):
    f = network(case)
    w = drawn(f)
    index = torch.tensor([7, 2, 13, 19, 5])
    for layer in case.layers:
        one = f.restricted([layer], w).subset(index, noise=noise)
        other = f.subset(index, noise=noise).restricted([layer], w)
        v = w[f.blocks[layer]]
        assert_close(one.at(v).value, other.at(v).value, RTOL)
        assert_close(one.at(v).grad, other.at(v).grad, RTOL)


@each_network
def test_a_restriction_of_a_restriction_frees_fewer_layers(case):
    f = network(case)
    w = drawn(f)
    last, before = case.layers[-1], case.layers[-2]
    outer = f.restricted([before, last], w)
    v = outer.initial() + 0.1
    inner = outer.restricted([last], v)
    u = v[outer.blocks[last]]
    assert torch.equal(inner.embed(u), outer.embed(v))
    assert_close(inner.at(u).value, f.at(outer.embed(v)).value, RTOL)
    with pytest.raises(ConfigError, match=f"'{case.layers[0]}' is not a layer"):
        outer.restricted([case.layers[0]], v)


@each_network
def test_only_the_free_layers_change_bit_for_bit(case):
    f = network(case).subset(torch.arange(20), noise=1)
    w = drawn(f)
    before = w.clone()
    for layer in case.layers:
        part = f.restricted([layer], w)
        point = part.at(w[f.blocks[layer]])
        after = part.embed(point.w - 0.1 * point.grad)
        same = after == w
        assert same[: f.blocks[layer].start].all()
        assert same[f.blocks[layer].stop :].all()
        assert not same.all()
    assert torch.equal(w, before)


def test_an_unknown_layer_is_named_with_the_choices():
    f = network("mlp")
    with pytest.raises(ConfigError, match=r"did you mean 'middle'.*first, last, middle"):
        f.restricted(["midle"], f.initial())
    with pytest.raises(ConfigError, match="name at least one layer"):
        f.restricted([], f.initial())


class Counting(nn.Module):
    """Counts the samples that pass, over all copies of itself."""

    passed = 0

    def forward(self, x):
        Counting.passed += len(x)
        return x


def counting(*, memory: float = 1e9, dropout: float = 0.0) -> Network:
    X, y = samples()
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 5), Counting(), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3)
    ).double()
    f = Network(net, F.cross_entropy, X, y, chunk=7, memory=memory)
    Counting.passed = 0
    return f


def passed(operation):
    before = Counting.passed
    operation()
    return Counting.passed - before


def test_what_the_layers_in_front_compute_is_computed_once():
    f = counting()
    part = f.restricted(["5"], f.initial())
    v = part.initial()
    assert passed(lambda: part.at(v).value) == 20
    point = part.at(v + 1)
    ray = point.ray(point.grad)
    assert passed(lambda: [ray.value(a) for a in (1.0, 0.5)]) == 0
    assert passed(lambda: (point.hessian() @ v, point.gauss_newton() @ v)) == 0
    assert passed(lambda: part.subset(torch.tensor([2, 5])).at(v).grad) == 0
    assert passed(lambda: part.subset(torch.tensor([2, 5]), noise=3).at(v).grad) == 0


def test_noise_costs_only_what_lies_behind_the_first_dropout():
    f = counting(dropout=0.5)
    w = f.initial()
    part = f.restricted(["5"], w)
    index = torch.tensor([2, 5, 7])
    _ = part.subset(index, noise=1).at(part.initial()).value
    assert passed(lambda: part.subset(index, noise=2).at(part.initial()).value) == 0
    # A batch's own activations, masks and all, serve its subsets.
    batch = f.subset(torch.arange(20), noise=1).restricted(["5"], w)
    _ = batch.at(batch.initial()).value
    assert passed(lambda: batch.subset(index).at(batch.initial()).value) == 0


def test_activations_beyond_the_memory_are_computed_at_each_use():
    f, roomy = counting(memory=1.0), counting()
    w = f.initial()
    part, kept = f.restricted(["5"], w), roomy.restricted(["5"], w)
    v = part.initial()
    _ = part.at(v).value
    assert passed(lambda: part.at(v).value) == 20
    index = torch.tensor([4, 4, 1])
    assert_close(part.subset(index).at(v).grad, kept.subset(index).at(v).grad, RTOL)


# -- convexity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn", "normed"])
@each_noise
def test_the_last_linear_layer_alone_is_a_convex_problem(name, noise):
    f = network(name, l2=0.05).subset(torch.arange(20), noise=noise)
    assert f.convexity is None
    w = drawn(f)
    part = f.restricted(["last"], w)
    assert part.convexity == 0.05
    for scale in (0, 1, 30):
        H = part.at(scale * part.initial()).hessian().dense()
        assert float(torch.linalg.eigvalsh(H)[0]) >= 0.05 - 1e-13
    first = BY_NAME[name].layers[0]
    assert f.restricted([first], w).convexity is None
    assert f.restricted([first, "last"], w).convexity is None


def test_a_network_that_is_not_a_sequence_claims_no_convexity():
    f = network("looped", l2=0.05)
    assert f.restricted(["last"], f.initial()).convexity is None


# -- the module ---------------------------------------------------------------------------------


def test_the_module_given_is_left_as_it_was():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 3)
    )
    net[4].eval()
    state = copy.deepcopy(net.state_dict())
    modes = [part.training for part in net.modules()]
    X, y = samples(dtype=torch.float32)
    f = Network(net, F.cross_entropy, X, y)
    w = drawn(f)
    for g in (f, f.subset(torch.arange(20), noise=1)):
        point = g.at(w)
        _ = point.value, point.grad, point.hessian() @ w, point.gauss_newton() @ w
        _ = g.evaluate(w, Split(X, y))
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    # And later changes of the module change no objective.
    value = f.at(w).value
    with torch.no_grad():
        net[4].weight.zero_()
    assert f.at(w).value == value


def test_a_network_that_changes_its_samples_is_refused_before_it_does():
    X, y = samples()
    before = X.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)).double()
    with pytest.raises(UnsupportedError, match="changes its input in place"):
        Network(net, F.cross_entropy, X, y)
    assert torch.equal(X, before)
    # Behind a layer it does no harm.
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(inplace=True)).double()
    f = Network(net, F.cross_entropy, X, y)
    assert_close(f.at(f.initial()).value, F.cross_entropy(net(X), y), RTOL)
    assert torch.isfinite(f.at(f.initial()).hessian() @ f.initial()).all()


def test_one_sample_and_one_layer_do():
    X, y = samples(1)
    f = Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), F.cross_entropy, X, y)
    assert_close(
        f.at(f.initial()).hessian() @ f.initial(),
        f.at(f.initial()).hessian().dense() @ f.initial(),
        RTOL,
    )


# -- precision ----------------------------------------------------------------------------------


@each_network
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_rounding_bounds_how_far_a_float32_value_is_off(case, scale):
    f, exact = network(case, n=20, dtype=torch.float32), network(case)
    for seed in range(5):
        w = (scale * drawn(f, seed)).float()
        value = f.at(w).value
        assert abs(value - exact.at(w.double()).value) <= f.rounding(value)


def test_rounding_vanishes_with_the_loss():
    f = network("mlp", dtype=torch.float32)
    assert f.rounding(1e-6) < 1e-12
    assert f.rounding(0.0) > 0


# -- as the loss of a run -----------------------------------------------------------------------


def image_set(n=12, augmentation="none"):
    generator = torch.Generator().manual_seed(0)
    X = torch.randint(256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % 3
    images = Images((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), augmentation)
    return ImageSet("drawn", Split(X, y), None, "multiclass", 3, "drawn", "drawn", images)


def image_module():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()


def test_bytes_are_normalized_as_the_data_set_says():
    data = image_set()
    f = CrossEntropy(data, image_module())
    x = data.images.normalize(data.train.X, torch.float64)
    expected = F.cross_entropy(image_module()(x), data.train.y)
    assert_close(f.at(f.initial()).value, expected, RTOL)
    assert f.accuracy(f.initial(), data.train) == pytest.approx(
        float((image_module()(x).argmax(1) == data.train.y).double().mean())
    )


def test_augmentation_is_drawn_with_a_batch_s_noise_alone():
    plain, augmented = (
        CrossEntropy(image_set(augmentation=a), image_module()) for a in ("none", "flip_crop")
    )
    w, index = plain.initial(), torch.tensor([3, 0, 7, 9])
    assert augmented.at(w).value == plain.at(w).value
    batch = augmented.subset(index, noise=1)
    assert batch.at(w).value != plain.subset(index).at(w).value
    assert batch.at(w).value == augmented.subset(index, noise=1).at(w).value
    assert batch.at(w).value != augmented.subset(index, noise=2).at(w).value
    part = torch.tensor([2, 0])
    rest = torch.tensor([1, 3])
    both = (batch.at(w).subset(part).value + batch.at(w).subset(rest).value) / 2
    assert_close(both, batch.at(w).value, RTOL)
    last = augmented.restricted(["3"], w)
    _ = last.at(w[augmented.blocks["3"]]).value  # its activations are those of plain images
    assert_close(
        last.subset(index, noise=1).at(w[augmented.blocks["3"]]).value, batch.at(w).value, RTOL
    )


def test_a_mini_batch_draws_from_the_generator_only_where_something_is_random():
    index = torch.arange(4)
    for f, draws in [
        (CrossEntropy(image_set(), image_module()), False),
        (CrossEntropy(image_set(augmentation="flip"), image_module()), True),
        (network("mlp"), True),
        (network("looped"), False),
    ]:
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        _ = f.batch(index, generator).at(f.initial()).value
        assert torch.equal(before, generator.get_state()) != draws


def test_a_table_of_features_dense_or_sparse_serves_as_well():
    net = nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    dense, sparse = (make_dataset("binary", sparse=s) for s in (False, True))
    f, g = CrossEntropy(dense, net), CrossEntropy(sparse, net)
    w = drawn(f)
    assert f.at(w).value == g.at(w).value
    assert f.accuracy(w, dense.train) == g.accuracy(w, sparse.train)
    with pytest.raises(CombinationError, match=r"more than loss.memory=1e-09 GiB"):
        CrossEntropy(sparse, net, memory=1e-9)


def test_mean_squares_of_a_linear_network_are_least_squares():
    data = make_dataset("regression")
    f = MeanSquaredError(data, nn.Linear(7, 1, bias=False).double(), l2=0.2)
    w = drawn(f)
    residual = data.train.X @ w - data.train.y
    assert_close(f.at(w).value, (residual @ residual) / 120 + 0.1 * (w @ w), RTOL)
    assert_close(f.at(w).grad, data.train.X.T @ residual / 60 + 0.2 * w, RTOL)
    H = data.train.X.T @ data.train.X / 60 + 0.2 * torch.eye(7, dtype=torch.float64)
    assert_close(f.at(w).hessian().dense(), H, RTOL)
    assert_close(f.at(w).gauss_newton().dense(), H, RTOL)
    assert f.convexity == 0.2
    assert f.accuracy(w, data.train) is None
    assert_close(f.data_loss(w, data.train), (residual @ residual) / 120, RTOL)


@pytest.mark.parametrize(
    ("loss", "task"), [(CrossEntropy, "regression"), (MeanSquaredError, "binary")]
)
def test_a_data_set_of_another_task_is_refused(loss, task):
    with pytest.raises(CombinationError, match=r"needs .*; dataset=zoo is no such"):
        loss(make_dataset(task), nn.Linear(7, 2))
