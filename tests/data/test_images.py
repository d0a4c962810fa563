"""Normalization and augmentation of images, on every device."""

import numpy as np
import pytest
import torch

from newton_krylov.data.images import Images, statistics


def draw(n=40, channels=3, height=16, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(256, size=(n, channels, height, width), dtype=np.uint8))


def seeded(device="cpu"):
    return torch.Generator(device).manual_seed(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalized_channels_have_mean_0_and_variance_1(device, dtype):
    X = draw().to(device)
    Z = Images(*statistics(X)).normalize(X, dtype)
    assert Z.dtype is dtype
    assert Z.device.type == device.type
    tolerance = {"atol": 1e-5 if dtype is torch.float32 else 1e-12, "rtol": 0}
    ones = torch.ones(3, dtype=dtype, device=device)
    torch.testing.assert_close(Z.mean((0, 2, 3)), 0 * ones, **tolerance)
    torch.testing.assert_close(Z.var((0, 2, 3), correction=0), ones, **tolerance)


def test_normalization_leaves_the_images_alone():
    X = draw()
    before = X.clone()
    Images(*statistics(X)).normalize(X, torch.float64)
    assert torch.equal(X, before)


def test_statistics_are_those_of_the_pixels_in_0_to_1():
    X = draw(channels=2)
    mean, std = statistics(X)
    pixels = X.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-13)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-13)


def test_a_constant_channel_becomes_zero_and_not_nan():
    X = draw()
    X[:, 1] = 77
    mean, std = statistics(X)
    assert std[1] == 1
    Z = Images(mean, std).normalize(X, torch.float64)
    torch.testing.assert_close(Z[:, 1], torch.zeros_like(Z[:, 1]), atol=1e-14, rtol=0)


def test_no_augmentation_returns_the_images_themselves():
    X = draw()
    assert Images((0.0,) * 3, (1.0,) * 3).augment(X, seeded()) is X


def test_flipping_mirrors_about_half_of_the_images(device):
    X = draw(400, 1).to(device)
    flipped = Images((0.0,), (1.0,), "flip").augment(X, seeded())
    mirrored = (flipped == X.flip(3)).flatten(1).all(1)
    same = (flipped == X).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 150 < int(mirrored.sum()) < 250  # five standard deviations


def test_a_cropped_image_is_one_of_the_shifted_or_mirrored_ones(device):
    X = draw(30).to(device)
    augmented = Images((0.0,) * 3, (1.0,) * 3, "flip_crop").augment(X, seeded())
    assert augmented.shape == X.shape
    assert augmented.dtype is torch.uint8
    border = 2  # an eighth of 16
    padded = torch.nn.functional.pad(X, (border,) * 4)
    seen = set()
    for image, around in zip(augmented, padded, strict=True):
        candidates = {
            (dy, dx, flip): window.flip(2) if flip else window
            for dy in range(2 * border + 1)
            for dx in range(2 * border + 1)
            for flip in (False, True)
            for window in [around[:, dy : dy + 16, dx : dx + 8]]
        }
        matches = [key for key, window in candidates.items() if torch.equal(image, window)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 15  # of 50, by 30 draws


@pytest.mark.parametrize("augmentation", ["flip", "flip_crop"])
def test_augmentation_is_the_generators_alone(augmentation):
    X = draw()
    images = Images((0.0,) * 3, (1.0,) * 3, augmentation)
    torch.manual_seed(0)
    first = images.augment(X, seeded())
    torch.manual_seed(1)
    assert torch.equal(first, images.augment(X, seeded()))
    assert not torch.equal(first, images.augment(X, torch.Generator().manual_seed(4)))
    assert torch.equal(X, draw())  # and the images are not changed


@pytest.mark.parametrize("augmentation", ["none", "flip", "flip_crop"])
@pytest.mark.parametrize("rows", [[0], [3, 4], [39], list(range(1, 40, 3))])
def test_a_part_is_augmented_as_in_the_whole(augmentation, rows):
    X, rows = draw(), torch.tensor(rows)
    images = Images((0.0,) * 3, (1.0,) * 3, augmentation)
    whole = images.augment(X, seeded())
    assert torch.equal(images.augment(X[rows], seeded(), rows), whole[rows])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_generator_of_the_gpu_serves_as_well():
    X = draw().cuda()
    images = Images((0.0,) * 3, (1.0,) * 3, "flip_crop")
    first = images.augment(X, seeded("cuda"))
    assert first.device.type == "cuda"
    assert torch.equal(first, images.augment(X, seeded("cuda")))
