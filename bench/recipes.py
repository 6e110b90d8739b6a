"""Train 784-32-784 side by side: as most tutorials do it, and as 01_simple does it.

    python bench/recipes.py [epochs of the tutorials' recipe, default 50]

Prints the seconds and held-out figures of both, and their ratio. Run it on a quiet machine, and
quote ratios of one run: the seconds of two runs can't be compared.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from ae_keras import data, metrics, plots  # isort: skip  # first: it keeps TensorFlow quiet
import keras


def build(initializer):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu", kernel_initializer=initializer),
            keras.layers.Dense(784, activation="sigmoid"),
            keras.layers.Reshape((28, 28, 1)),
        ]
    )


def tutorial(x, epochs):
    model = build("glorot_uniform")
    model.compile("adam", "binary_crossentropy")
    model.fit(x, x, epochs=epochs, batch_size=256, verbose=0)
    return model


def notebook(x, epochs=40):
    steps = int(epochs * len(x) * 11 / 12 / 256)
    model = build("he_normal")
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate), "binary_crossentropy", jit_compile=True, steps_per_execution=32
    )
    model.fit(x, x, epochs=epochs, batch_size=256, validation_split=1 / 12, verbose=0)
    return model


def main():
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    (x_train, _), (x_test, _), _ = data.load_digits()
    rows = {}
    for name, train in (
        (f"tutorials', {epochs} epochs", lambda x: tutorial(x, epochs)),
        ("01_simple's, 40 epochs", notebook),
    ):
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        model = train(x_train)
        seconds = time.perf_counter() - start
        x_hat = model.predict(x_test, batch_size=1000, verbose=0)
        rows[name] = {
            "seconds": f"{seconds:.1f}",
            "BCE": metrics.bce(x_test, x_hat),
            "MSE": metrics.mse(x_test, x_hat),
        }
    slow, fast = (float(row["seconds"]) for row in rows.values())
    print(plots.table(rows), f"\nthe tutorials' recipe takes {slow / fast:.1f} times as long")


if __name__ == "__main__":
    main()
