"""Blocks that a page teaches and later pages need unchanged, word for word as they stand there.

It is the one place of the package where layers and losses may stand. `TAUGHT` names each block's
page, which never imports it; a test compares the two by their syntax trees.
"""

import keras

TAUGHT = {
    "join": "01_simple",
    "sample": "06_variational",
    "kl": "06_variational",
    "reconstruction": "06_variational",
    "as_it_is": "06_variational",
}


def join(encoder, decoder):
    image = keras.Input((28, 28, 1), name="image")
    return keras.Model(image, decoder(encoder(image)), name="autoencoder")


@keras.saving.register_keras_serializable(package="ae_keras")
def sample(cloud):
    """Draw one code from each cloud: z_mean and z_log_var, both of shape (batch, axes)."""
    z_mean, z_log_var = cloud
    epsilon = keras.random.normal(keras.ops.shape(z_mean))
    return z_mean + keras.ops.exp(z_log_var / 2) * epsilon  # σ = exp(ln σ² / 2)


@keras.saving.register_keras_serializable(package="ae_keras")
def kl(cloud):
    """Return KL(q(z|x) ‖ N(0, I)) of each cloud, in nats."""
    z_mean, z_log_var = cloud
    each_axis = keras.ops.square(z_mean) + keras.ops.exp(z_log_var) - 1 - z_log_var
    return keras.ops.sum(each_axis, axis=-1) / 2


def reconstruction(x, x_hat):
    """Return −ln p(x|z) of each image, in nats."""
    # Keras takes the mean over the last axis alone, whose length is 1: so (batch, 28, 28)
    each_pixel = keras.losses.binary_crossentropy(x, x_hat)
    return keras.ops.sum(each_pixel, axis=(1, 2))


def as_it_is(_, output):
    return output
