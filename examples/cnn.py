"""A convolutional network on handwritten digits: three runs from three seeds as one program.

    pip install ".[plot]" && python examples/cnn.py [--mnist FOLDER]

Two 3x3 convolutions with max pooling and a linear layer, Adam with warm-up and cosine decay,
batches of 64; on the shipped 8x8 digits or, given a folder with MNIST's four files, on those. Rate
and dropout were chosen by the loss on every sixth training image; the test images chose nothing.

It prints (times vary, and with other versions the last digits) and draws `cnn.png`, the test images
that all three networks have wrong:

"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

SEEDS = 3
STEPS = 1500


def build(side, learning_rate=4e-3, dropout=0.3, steps=STEPS):
    net = fn.serial(
        *(fn.conv(1, 32, (3, 3)), fn.relu, fn.max_pool((2, 2))),
        *(fn.conv(32, 64, (3, 3)), fn.relu, fn.max_pool((2, 2))),
        *(fn.flatten, fn.dropout(dropout), fn.dense((side // 4) ** 2 * 64, 10)),
    )
    rate = fn.warmup_cosine(learning_rate, steps / 20, steps)
    task = fn.supervised(net, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    return net, fn.trainer(task, fn.adam(rate))


def images(part):
    x, y = part
    side = round(x.shape[1] ** 0.5)
    return x.reshape(-1, side, side, 1), y


def draw(picture, x, labels, guesses, wrong):
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        print('For the picture: pip install ".[plot]"')
        return
    shown = np.flatnonzero(wrong)[:10]
    figure, axes = plt.subplots(1, max(len(shown), 1), figsize=(1.2 * max(len(shown), 4), 1.6))
    for axis, index in zip(np.atleast_1d(axes), shown, strict=True):
        axis.imshow(x[index, :, :, 0], cmap="gray_r")
        axis.set_title(f"{labels[index]}, not {guesses[index]}", fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    print(f"Wrong in all runs: {wrong.sum()} of {len(wrong)}, drawn in {picture}")


def main(folder=None, steps=STEPS, picture="cnn.png"):
    train, test = map(images, fn.datasets.mnist(folder) if folder else fn.datasets.digits())
    net, trainer = build(train[0].shape[1], steps=steps)
    print(f"{len(train[1]):,} images to train on, {len(test[1]):,} to test.")
    print(fn.summary(net, train[0][:1]))

    keys = jax.random.split(jax.random.key(0), SEEDS)
    run = functools.partial(fn.run, trainer, train, steps=steps, batch_size=64)
    start = time.perf_counter()
    sweep = jax.jit(jax.vmap(run)).lower(keys).compile()
    compiled = time.perf_counter()
    result = jax.block_until_ready(sweep(keys))
    print(
        f"{SEEDS} runs of {steps:,} steps in {time.perf_counter() - compiled:.0f} s, "
        f"compiled in {compiled - start:.0f} s"
    )

    @jax.jit
    def predict(x):
        apply = jax.vmap(functools.partial(net.apply), in_axes=(0, 0, None))
        return apply(result.state.params, result.state.state, x)[0].argmax(-1)

    parts = np.array_split(test[0], max(len(test[0]) // 500, 1))
    guesses = np.concatenate([predict(x) for x in parts], axis=1)
    accuracy = 100 * (guesses == test[1]).mean(axis=1)
    print(f"Test accuracy {accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f} %")

    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a[0], float), result.state.params)
        state = jax.tree.map(lambda a: a[0], result.state.state)
        errors = fn.check_gradients(net.apply, params, state, jnp.asarray(test[0][:4], float))
    print(f"Gradients by hand and by jax.grad differ by {errors.hand_autodiff:.0e} of their norm")
    draw(picture, test[0], test[1], guesses[0], (guesses != test[1]).all(axis=0))
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", metavar="FOLDER", help="a folder with MNIST's four files")
    main(parser.parse_args().mnist)
