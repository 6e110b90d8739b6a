"""Handwritten digits as arrays: MNIST, or a bundled stand-in where MNIST can't be had."""

import hashlib
import http.client
import itertools
import numbers
import os
import pathlib
import ssl
import sys
import tempfile
import time
import urllib.request
import zipfile
import zlib

import certifi
import numpy as np
import tqdm

from .errors import ArgumentError, DataError
from .files import PART, move_aside, sweep

MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_ARRAYS = {  # shape, and SHA-256 of the uint8 values in C order
    "x_train": (
        (60000, 28, 28),
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ),
    "y_train": (
        (60000,),
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    "x_test": (
        (10000, 28, 28),
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ),
    "y_test": (
        (10000,),
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
}
WAIT_TIMEOUT, DOWNLOAD_TIMEOUT = 5, 300  # seconds: for each answer, and for the whole
PROGRESS = {"file": sys.stdout, "leave": False}  # a bar that is gone when the work is done


def load_digits(dataset=None):
    """Load 28×28 grey digits, white on black, and say in one line which dataset they are.

    Args:
        dataset: `"auto"` takes MNIST from `$AE_KERAS_DATA`, from Keras's cache or by
            download, and scikit-learn's bundled digits where none of these works;
            `"mnist"` and `"digits"` take that dataset or raise. None: what
            `$AE_KERAS_DATASET` says, or else `"auto"`.

    Returns:
        `(x_train, y_train), (x_test, y_test), name`: images as float32 in [0, 1] with
        shape (n, 28, 28, 1), labels 0–9 as uint8 with shape (n,), and `"mnist"` or
        `"digits"`.

    Raises:
        ArgumentError: the name is unknown.
        DataError: a `mnist.npz` is damaged or foreign (it is moved aside, never deleted),
            or MNIST was asked for by name and can't be had.
    """
    asked = f"dataset={dataset!r}"
    if dataset is None:
        dataset = os.environ.get("AE_KERAS_DATASET", "").strip() or "auto"
        asked = f"AE_KERAS_DATASET={dataset}"
    if dataset not in ("auto", "mnist", "digits"):
        raise ArgumentError(asked, "unknown dataset", "Use 'auto', 'mnist' or 'digits'.")
    arrays, why = None, "as asked for"
    if dataset != "digits":
        arrays, why = _find_mnist()
    if arrays is None and dataset == "mnist":
        raise DataError(
            "MNIST", why, "Set AE_KERAS_DATA to the folder of a mnist.npz, or use 'auto'."
        )
    name = "digits" if arrays is None else "mnist"
    if arrays is None:
        arrays = _bundled_digits()
    x_train, y_train, x_test, y_test = arrays
    print(f"Dataset: {name} – {len(x_train):,} training and {len(x_test):,} test images ({why})")
    return (_as_images(x_train), y_train), (_as_images(x_test), y_test), name


def add_gaussian_noise(images, stddev, seed):
    """Add N(0, stddev²) to every pixel and clip to [0, 1]; taught in 05_denoising.

    Args:
        images: floats in [0, 1], any shape.
        stddev: standard deviation in grey levels (1 = black to white), ≥ 0.
        seed: of the noise; the same seed gives the same noise.

    Returns:
        float32, the shape of `images`.
    """
    if not (isinstance(stddev, numbers.Real) and 0 <= stddev < np.inf):
        raise ArgumentError(
            f"stddev={stddev!r}", "not a standard deviation", "Give a number ≥ 0, such as 0.5."
        )
    noise = np.random.default_rng(seed).standard_normal(np.shape(images), dtype=np.float32)
    return np.clip(images + np.float32(stddev) * noise, 0, 1).astype(np.float32)


def drop_pixels(images, rate, seed):
    """Set a random share of the pixels to black; taught in 05_denoising.

    Args:
        images: floats in [0, 1], any shape.
        rate: the probability that a pixel is lost, in [0, 1].
        seed: of the mask; the same seed gives the same mask.

    Returns:
        float32, the shape of `images`.
    """
    if not (isinstance(rate, numbers.Real) and 0 <= rate <= 1):
        raise ArgumentError(f"rate={rate!r}", "not a probability", "Give a number in [0, 1].")
    kept = np.random.default_rng(seed).random(np.shape(images), dtype=np.float32) >= rate
    return (images * kept).astype(np.float32)


def _as_images(values):
    return (values.astype(np.float32) / 255)[..., np.newaxis]


def _find_mnist():
    """Return MNIST's four arrays and a remark, or None and why there are none."""
    why = []
    folder = os.environ.get("AE_KERAS_DATA")
    if folder:
        root = pathlib.Path(__file__).parent.parent  # notebooks run in a folder of their own
        for path in (pathlib.Path(folder).expanduser(), root / folder):
            if (path / "mnist.npz").is_file():
                return _read_or_move_aside(path / "mnist.npz"), "SHA-256 verified"
        why.append(f"AE_KERAS_DATA={folder} is no folder with a mnist.npz")
    cached = _keras_home() / "datasets" / "mnist.npz"
    if cached.is_file():
        return _read_or_move_aside(cached), "SHA-256 verified"
    try:
        return _download_mnist(cached), "SHA-256 verified"
    except DataError as error:
        why.append(f"MNIST's download failed: {error.cause}")
        return None, "; ".join(why)


def _keras_home():
    # keras.config has no public accessor for it: the variable and its documented default
    return pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")


def _read_or_move_aside(path):
    try:
        return _read_mnist(path)
    except DataError as error:
        try:
            way_out = (
                f"It is now {move_aside(path).name}: put MNIST's file there, or just run again."
            )
        except OSError as refused:
            way_out = f"It can't be moved aside ({refused.strerror}): replace or remove it."
        raise DataError(path, error.cause, way_out) from error


def _read_mnist(path):
    """Read a file's four arrays and prove that they are MNIST's."""
    arrays = []
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an npz archive, or cut short")
        with np.load(path, allow_pickle=False) as file:
            for name, (shape, digest) in MNIST_ARRAYS.items():
                if file.zip.getinfo(f"{name}.npy").file_size > np.prod(shape) + 1024:
                    raise ValueError(f"{name} is too large")  # than a byte a pixel and a header
                array = np.ascontiguousarray(file[name])
                if (array.dtype, array.shape) != (np.uint8, shape):
                    raise ValueError(f"{name} is {array.dtype} {array.shape}, not uint8 {shape}")
                if hashlib.sha256(array).hexdigest() != digest:
                    raise ValueError(f"{name} has other values: its SHA-256 differs")
                arrays.append(array)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        cause = " ".join(str(error).split()).strip("'\"")
        raise DataError(path, f"not MNIST's file, or damaged ({cause})", "") from error
    return arrays


def _download_mnist(path):
    """Fetch MNIST and keep it as `path`; where that can't be written, keep it in memory."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        handle, part = tempfile.mkstemp(dir=folder, prefix="mnist.npz.", suffix=PART)
    except OSError as error:
        print(f"{folder} can't be written ({error.strerror}): MNIST will not be kept.")
        folder = None
        handle, part = tempfile.mkstemp(prefix="mnist.npz.", suffix=PART)
    try:
        with open(handle, "wb") as file:
            _fetch_with_retry(MNIST_URL, file)
        arrays = _read_mnist(part)
        if folder:
            os.chmod(part, 0o644)  # a temporary file is its owner's alone
            os.replace(part, path)
        return arrays
    except (DataError, OSError) as error:
        cause = getattr(error, "cause", error)
        raise DataError(MNIST_URL, cause, "Check the connection and the disk.") from error
    finally:
        pathlib.Path(part).unlink(missing_ok=True)


def _fetch_with_retry(url, file, attempts=2):
    for attempt in range(1, attempts + 1):
        try:
            file.seek(0)
            file.truncate()
            return _fetch(url, file)
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None) or error or type(error).__name__
            if attempt == attempts:
                raise DataError(url, cause, "") from error
            time.sleep(1)


def _fetch(url, file):
    """Copy a URL to a file, with a limit on each wait and on the whole."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())  # some Pythons come without any
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    with urllib.request.urlopen(url, timeout=WAIT_TIMEOUT, context=context) as response:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm.tqdm(total=size, unit="B", unit_scale=True, **PROGRESS) as bar:
            while chunk := response.read1(1 << 16):  # whatever has arrived
                file.write(chunk)
                bar.update(len(chunk))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not finished after {DOWNLOAD_TIMEOUT} s")
        if file.tell() < size:
            raise ConnectionError(f"cut off after {file.tell():,} of {size:,} bytes")


def _bundled_digits():
    """Bring scikit-learn's 8×8 digits into MNIST's form: 13,500 for training, 297 for test.

    Each image is scaled to 20×20, contrast-stretched and centred by its mass in 28×28. A
    training image comes nine times: as it is, and turned by ±0.15 rad and slanted by ±0.2.
    The last 297 images, by other writers, are the test set, unaltered. The last twelfth of
    the training set is made from 125 images that are nowhere else in it, so that
    `validation_split=1/12` is a fair one.
    """
    import sklearn.datasets  # slow to import, and of use here alone

    bunch = sklearn.datasets.load_digits()
    images, labels = bunch.images, bunch.target.astype(np.uint8)
    poses = list(itertools.product((0, -0.15, 0.15), (0, -0.2, 0.2)))  # the first is none
    x_train = np.stack([[_pose(image, *pose) for image in images[:1500]] for pose in poses])
    y_train = np.tile(labels[:1500], (len(poses), 1))
    x_train, y_train = (
        np.concatenate([part.reshape(-1, *array.shape[2:]) for part in np.split(array, [1375], 1)])
        for array in (x_train, y_train)
    )
    return x_train, y_train, np.stack([_pose(image) for image in images[1500:]]), labels[1500:]


def _pose(image, angle=0, slant=0):
    """Draw an 8×8 image of values 0–16 as 28×28 uint8, turned and slanted about its mass."""
    import scipy.ndimage

    image = np.pad(image, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = 8 / 20 * turn @ [[1, 0], [slant, 1]]  # from an output to an input position
    offset = np.array(scipy.ndimage.center_of_mass(image)) - matrix @ [13.5, 13.5]
    large = scipy.ndimage.affine_transform(image, matrix, offset, (28, 28), order=3) / 16
    stretched = np.clip((large - 0.3) / (0.85 - 0.3), 0, 1)
    return (255 * stretched + 0.5 + 1e-6).astype(np.uint8)  # 1e-6: no ties for the last bit
