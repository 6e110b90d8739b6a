"""Held-out figures of merit: how near a reconstruction comes to the original."""

import numpy as np

from .errors import ArgumentError


def bce(x, x_hat):
    """Return the mean binary cross-entropy, in nats a pixel.

    −x·ln(x̂) − (1 − x)·ln(1 − x̂), with x̂ kept 1e-7 away from 0 and 1, as Keras does (Goodfellow
    et al. 2016, Deep Learning, eq. 6.12 and section 6.2.2.2). For grey pixels its minimum, at
    x̂ = x, is the entropy of the pixels and not 0.

    Args:
        x, x_hat: originals and reconstructions in [0, 1], arrays of the same shape.

    Returns:
        float.
    """
    x, x_hat = _grey_pair(x, x_hat)
    x_hat = np.clip(x_hat, 1e-7, 1 - 1e-7)
    return float(-np.mean(x * np.log(x_hat) + (1 - x) * np.log1p(-x_hat)))


def mse(x, x_hat):
    """Return the mean squared error, in squared grey levels (black to white is 1).

    Args:
        x, x_hat: originals and reconstructions, arrays of the same shape.

    Returns:
        float.
    """
    x, x_hat = _pair(x, x_hat)
    return float(np.mean(np.square(x - x_hat)))


def psnr(x, x_hat):
    """Return the peak signal-to-noise ratio, averaged over images, in dB.

    10·log10(1 / MSE) of each image, for a peak of 1 (Wang and Bovik 2009, IEEE Signal Processing
    Magazine 26(1), eq. 2). An image that is reproduced exactly counts as infinite.

    Args:
        x, x_hat: originals and reconstructions in [0, 1], arrays of the same shape, (n, ...).

    Returns:
        float.
    """
    x, x_hat = _grey_pair(x, x_hat)
    errors = np.mean(np.square(x - x_hat).reshape(len(x), -1), axis=1)
    with np.errstate(divide="ignore"):
        return float(np.mean(-10 * np.log10(errors)))


def ssim(x, x_hat):
    """Return the structural similarity, averaged over windows and images; 1 is a perfect copy.

    It compares mean, contrast and correlation in windows of 7×7 pixels, for a range of 1 (Wang et
    al. 2004, IEEE Transactions on Image Processing 13(4), eq. 13, with uniform windows and sample
    covariances as scikit-image has them); taught in 05_denoising.

    Args:
        x, x_hat: originals and reconstructions in [0, 1], arrays of the same shape,
            (n, height, width) or (n, height, width, 1), at least 7×7 pixels.

    Returns:
        float, in [-1, 1].
    """
    from scipy.ndimage import uniform_filter  # slow to import

    x, x_hat = _grey_pair(x, x_hat)
    if x.ndim < 3 or min(x.shape[1:3]) < 7 or x.size != np.prod(x.shape[:3]):
        raise ArgumentError("x and x_hat", f"shape {x.shape}", "Give grey images of 7×7 or more.")
    x, x_hat = x.reshape(x.shape[:3]), x_hat.reshape(x.shape[:3])

    def mean(images):
        return uniform_filter(images, size=7, axes=(1, 2))[:, 3:-3, 3:-3]  # whole windows only

    mean_x, mean_y = mean(x), mean(x_hat)
    sample = 49 / 48  # from the mean over 49 pixels to an unbiased (co)variance
    covariance = sample * (mean(x * x_hat) - mean_x * mean_y)
    variances = sample * (mean(x**2) - mean_x**2 + mean(x_hat**2) - mean_y**2)
    c1, c2 = 0.01**2, 0.03**2  # keep flat windows from dividing by 0
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return float(np.mean(similarity))


def _grey_pair(x, x_hat):
    x, x_hat = _pair(x, x_hat)
    if not (x.min() >= 0 and x.max() <= 1):
        raise ArgumentError(
            "x", f"values from {x.min():g} to {x.max():g}", "Scale images to [0, 1] first."
        )
    return x, x_hat


def _pair(x, x_hat):
    x, x_hat = np.asarray(x, dtype=np.float64), np.asarray(x_hat, dtype=np.float64)
    if x.shape != x_hat.shape or x.size == 0:
        raise ArgumentError(
            "x and x_hat", f"shapes {x.shape} and {x_hat.shape}", "Give two arrays of one shape."
        )
    return x, x_hat
