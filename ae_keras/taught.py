"""Blocks that a page teaches and later pages need unchanged, word for word as they stand there.

It is the one place of the package where layers and losses may stand. `TAUGHT` names each block's
page, which never imports it; a test compares the two by their syntax trees.
"""

import keras

TAUGHT = {
    "join": "01_simple",
}


def join(encoder, decoder):
    image = keras.Input((28, 28, 1), name="image")
    return keras.Model(image, decoder(encoder(image)), name="autoencoder")
