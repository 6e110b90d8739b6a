"""The datasets: what they look like, where they come from, and what is said when they don't."""

import hashlib

import numpy as np
import pytest
import sklearn.datasets
from scipy import ndimage

from ae_keras import data
from ae_keras.errors import ArgumentError, DataError


@pytest.fixture
def offline(monkeypatch):
    def refuse(*arguments):
        raise DataError("address", "no network", "")

    monkeypatch.delenv("AE_KERAS_DATA", raising=False)
    monkeypatch.setattr(data, "_fetch_with_retry", refuse)


@pytest.mark.parametrize(("name", "counts"), [("mnist", (60000, 10000)), ("digits", (13500, 297))])
def test_arrays_are_as_promised(datasets, name, counts):
    if name not in datasets:
        pytest.skip("MNIST is not at hand")
    *parts, dataset = datasets[name]
    assert dataset == name
    for (images, labels), count in zip(parts, counts, strict=True):
        assert images.shape == (count, 28, 28, 1) and images.dtype == np.float32
        assert labels.shape == (count,) and labels.dtype == np.uint8
        assert images.min() == 0 and images.max() == 1
        assert set(labels) == set(range(10))


def test_embedded_digits_look_like_mnist(datasets):
    """White on black, 20 pixels high, the mass in the middle; bounds around MNIST's own values."""
    images = datasets["digits"][1][0][..., 0]
    assert 0.11 < images.mean() < 0.16  # MNIST: 0.133
    assert 0.09 < np.mean((images > 0.02) & (images < 0.98)) < 0.15  # grey pixels; MNIST: 0.113
    assert images[:, :2].max() == 0  # the frame is black
    centres = np.array([ndimage.center_of_mass(image) for image in images])
    assert np.abs(centres - 13.5).max() < 1  # MNIST's lie at 13.5 to half a pixel
    rows = images.max(axis=2) > 0.5
    heights = 28 - rows.argmax(axis=1) - rows[:, ::-1].argmax(axis=1)
    assert 18 < heights.mean() < 21  # MNIST: 19.6


def test_embedded_split_shares_no_original(datasets):
    """Match each image with the originals, by the 8×8 picture that it shrinks to."""
    (x_train, y_train), (x_test, y_test), _ = datasets["digits"]
    bunch = sklearn.datasets.load_digits()
    originals = np.stack([data._pose(image) for image in bunch.images]) / np.float32(255)
    number = {image.tobytes(): n for n, image in enumerate(originals)}
    assert len(number) == 1797  # no two originals are the same
    tested = [number[image[..., 0].tobytes()] for image in x_test]
    assert sorted(tested) == list(range(1500, 1797))
    assert np.array_equal(y_test, bunch.target[1500:])
    poses = [(a, s) for a in (0, -0.15, 0.15) for s in (0, -0.2, 0.2)]
    for part, start, stop in ((x_train[: 1375 * 9], 0, 1375), (x_train[1375 * 9 :], 1375, 1500)):
        part = part.reshape(9, stop - start, 28, 28)
        for n in (start, start + 7, stop - 1):
            for k, pose in enumerate(poses):
                expected = data._pose(bunch.images[n], *pose) / np.float32(255)
                np.testing.assert_array_equal(part[k, n - start], expected)
    labels = bunch.target
    assert np.array_equal(y_train[: 1375 * 9].reshape(9, -1), np.tile(labels[:1375], (9, 1)))
    assert np.array_equal(y_train[1375 * 9 :].reshape(9, -1), np.tile(labels[1375:1500], (9, 1)))


def test_embedded_digits_are_the_same_everywhere(datasets):
    """Saved models were trained on exactly these values, whatever the version of SciPy."""
    digest = hashlib.sha256(datasets["digits"][0][0]).hexdigest()
    assert digest == EMBEDDED_DIGEST


EMBEDDED_DIGEST = "d2fcca87ed48a473ca3f381ba5127645e954c5b6ef49a180957a5827a22e5994"


def test_without_mnist_the_embedded_digits_come_in_one_line(offline, capsys):
    *_, name = data.load_digits()
    said = capsys.readouterr().out
    assert name == "digits"
    assert said.count("\n") == 1
    assert "MNIST's download failed: no network" in said
    with pytest.raises(DataError, match=r"MNIST: .*no network\. Set AE_KERAS_DATA"):
        data.load_digits("mnist")


def test_a_foreign_file_is_named_and_moved_aside(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("AE_KERAS_DATA", str(tmp_path))
    path = tmp_path / "mnist.npz"
    for n, content in enumerate([b"", b"<html>", b"PK\x03\x04 cut"], start=1):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"mnist\.npz: .*It is now mnist\.npz\.damaged-{n}"):
            data.load_digits()
        assert (tmp_path / f"mnist.npz.damaged-{n}").read_bytes() == content
    arrays = {k: np.zeros(shape, np.uint8) for k, (shape, _) in data.MNIST_ARRAYS.items()}
    np.savez_compressed(path, **arrays)
    with pytest.raises(DataError, match="x_train has other values"):
        data.load_digits()
    np.savez_compressed(path, **arrays | {"y_test": np.zeros(9, np.float64)}, x=arrays["x_test"])
    with pytest.raises(DataError, match="x_train has other values"):
        data.load_digits()
    assert data.load_digits()[2] == "digits"  # and goes on the next time


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ArgumentError, match=r"'fashion'.*Use 'auto'"):
        data.load_digits("fashion")
    monkeypatch.setenv("AE_KERAS_DATASET", "cifar")
    with pytest.raises(ArgumentError, match="AE_KERAS_DATASET=cifar"):
        data.load_digits()


@pytest.mark.parametrize("stddev", [-0.1, float("nan"), float("inf"), "0.5", None, [0.1]])
def test_impossible_noise_is_refused(stddev):
    with pytest.raises(ArgumentError, match="stddev="):
        data.add_gaussian_noise(np.zeros((2, 4, 4, 1)), stddev, seed=0)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "0.5", None])
def test_impossible_rate_is_refused(rate):
    with pytest.raises(ArgumentError, match="rate="):
        data.drop_pixels(np.zeros((2, 4, 4, 1)), rate, seed=0)


@pytest.mark.parametrize("stddev", [0.05, 0.1])
def test_noise_has_the_stated_strength_and_is_fresh_for_every_image(stddev):
    grey = np.full((200, 28, 28, 1), 0.5, np.float32)
    noisy = data.add_gaussian_noise(grey, stddev, seed=0)
    noise = noisy - grey
    assert noisy.dtype == np.float32 and noisy.shape == grey.shape
    assert abs(noise.mean()) < 0.01 * stddev
    assert abs(noise.std() / stddev - 1) < 0.01
    assert abs(np.mean(np.abs(noise) < stddev) - 0.6827) < 0.005  # a normal one
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15
    assert abs(np.corrcoef(noise[..., :-1, 0].ravel(), noise[..., 1:, 0].ravel())[0, 1]) < 0.02
    assert np.array_equal(grey, np.full_like(grey, 0.5))  # the originals are as they were


def test_noise_comes_again_with_the_same_seed_only():
    grey = np.full((20, 28, 28, 1), 0.5, np.float32)
    for spoil, strength in ((data.add_gaussian_noise, 0.1), (data.drop_pixels, 0.3)):
        first = spoil(grey, strength, seed=0)
        np.random.default_rng(9).random(5)
        np.random.random(5)  # neither may have an influence
        assert np.array_equal(first, spoil(grey, strength, seed=0))
        for seed in (1, 2, 7):
            assert not np.array_equal(first, spoil(grey, strength, seed=seed))
        differ = spoil(grey, strength, seed=1) != spoil(grey, strength, seed=2)
        assert differ.mean() > 0.3


def test_noise_is_clipped_and_none_at_all_changes_nothing():
    grey = np.full((20, 28, 28, 1), 0.5, np.float32)
    strong = data.add_gaussian_noise(grey, 5, seed=0)
    assert strong.min() == 0 and strong.max() == 1
    assert abs(np.mean(strong == 1) - 0.46) < 0.02 and abs(np.mean(strong == 0) - 0.46) < 0.02
    assert np.array_equal(data.add_gaussian_noise(grey, 0, seed=0), grey)


def test_dropped_pixels_are_black_and_the_others_untouched():
    images = np.random.default_rng(0).uniform(0.1, 1, (200, 28, 28, 1)).astype(np.float32)
    dropped = data.drop_pixels(images, 0.3, seed=0)
    assert dropped.dtype == np.float32
    kept = dropped > 0
    assert np.array_equal(dropped[kept], images[kept])
    assert abs(np.mean(~kept) - 0.3) < 0.005  # lost, not kept
    assert not np.array_equal(kept[0], kept[1])
    assert np.array_equal(data.drop_pixels(images, 0, seed=0), images)
    assert data.drop_pixels(images, 1, seed=0).max() == 0
