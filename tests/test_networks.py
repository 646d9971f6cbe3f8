"""The ready networks: their published sizes, and PyTorch's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

KEY = jax.random.key(0)
GOLDEN = np.load(Path(__file__).parent / "golden" / "networks.npz")


def count(network):
    params, _ = jax.eval_shape(network.init, KEY)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# The papers': LeNet-5 with full connections; He et al. 2016, table 6, in millions.
@pytest.mark.parametrize(
    ("network", "shape", "parameters"),
    [
        (fn.lenet(), (2, 28, 28, 1), 61_706),
        (fn.resnet(), (2, 32, 32, 3), 0.27e6),
        (fn.resnet(32), (2, 32, 32, 3), 0.46e6),
        (fn.resnet(56), (2, 32, 32, 3), 0.85e6),
        (fn.resnet(110), (2, 32, 32, 3), 1.7e6),
    ],
)
def test_sizes_are_the_published_ones(network, shape, parameters):
    np.testing.assert_allclose(count(network), parameters, rtol=0.02)
    y = jax.eval_shape(
        lambda key, x: network.apply(*network.init(key), x, train=True)[0], KEY, jnp.ones(shape)
    )
    assert y.shape == (2, 10)


class Reader:
    """Hands out a vector's numbers in PyTorch's order, in the library's layout."""

    def __init__(self, vector):
        self.rest = vector

    def take(self, *shape):
        size = int(np.prod(shape))
        head, self.rest = self.rest[:size], self.rest[size:]
        return head.reshape(shape)

    def conv(self, fan_in, fan_out):
        return {"weight": self.take(fan_out, fan_in, 3, 3).transpose(2, 3, 1, 0)}

    def norm(self, features):
        return {"scale": self.take(features), "bias": self.take(features)}

    def branch(self, fan_in, fan_out):
        first = (self.conv(fan_in, fan_out), self.norm(fan_out), ())
        return (*first, self.conv(fan_out, fan_out), self.norm(fan_out))

    def same(self, features, times):
        """A stage's further blocks, stacked."""
        blocks = [(self.branch(features, features), ()) for _ in range(times)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)

    def network(self):
        layers = [self.conv(3, 2), self.norm(2), (), self.same(2, 2)]
        for fan_in, fan_out in ((2, 4), (4, 8)):
            layers += [(self.branch(fan_in, fan_out), ()), (), (), self.same(fan_out, 1)]
        last = {"weight": self.take(5, 8).T, "bias": self.take(5)}
        assert self.rest.size == 0
        return (*layers, (), last)


def blocks_of(state):
    """The leaves of a state in PyTorch's order: a stack's members one after another."""
    for index, part in enumerate(state):
        if index in (3, 7, 11):
            depth = len(jax.tree.leaves(part)[0])
            for member in range(depth):
                yield from jax.tree.leaves(jax.tree.map(lambda a, m=member: a[m], part))
        else:
            yield from jax.tree.leaves(part)


def test_resnet_is_pytorchs():
    with jax.enable_x64(True):
        network = fn.resnet(14, classes=5, features=(2, 4, 8))
        params = jax.tree.map(jnp.asarray, Reader(GOLDEN["parameters"]).network())
        fresh, state = network.init(KEY)
        assert jax.tree.structure(fresh) == jax.tree.structure(params)
        state = jax.tree.map(lambda a: a.astype(float), state)
        x = jnp.asarray(GOLDEN["x"].transpose(0, 2, 3, 1))
        labels = jnp.asarray(GOLDEN["labels"], jnp.int32)

        def loss(params, x):
            logits, after = network.apply(params, state, x, train=True)
            return fn.cross_entropy(logits, labels).mean(), (logits, after)

        run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        (grads, dx), (logits, after) = run(params, x)
        np.testing.assert_allclose(logits, GOLDEN["logits"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dx.transpose(0, 3, 1, 2), GOLDEN["dx"], rtol=1e-10, atol=1e-12)
        wanted = Reader(GOLDEN["gradients"]).network()
        for got, leaf in zip(*map(jax.tree.leaves, (grads, wanted)), strict=True):
            np.testing.assert_allclose(got, leaf, rtol=1e-10, atol=1e-12)
        statistics = np.concatenate([np.ravel(leaf) for leaf in blocks_of(after)])
        np.testing.assert_allclose(statistics, GOLDEN["statistics"], rtol=1e-10, atol=1e-12)
        y, _ = jax.jit(network.apply)(params, after, x)
        np.testing.assert_allclose(y, GOLDEN["evaluated"], rtol=1e-10, atol=1e-12)


def test_vit_has_the_size_of_vit_tiny():
    network = fn.vit((224, 224), (16, 16), 1000, features=192, depth=12, heads=3)
    assert count(network) == 5_717_416 - 2 * 192  # without a class token and its position


def test_gpt_has_the_size_of_gpt_2():
    network = fn.gpt(50_257, 1024, features=768, depth=12, heads=12)
    assert count(network) == 124_439_808
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    y = jax.eval_shape(lambda key, x: network.apply(*network.init(key), x)[0], KEY, ids)
    assert y.shape == (2, 16, 50_257)


def test_choices_that_do_not_fit_say_so():
    network = fn.vit((8, 8), (4, 4), features=6, depth=1)
    arguments = (*jax.eval_shape(network.init, KEY), jnp.ones((1, 4, 16, 3)))
    with pytest.raises(ValueError, match=r"of shape \[n, 8, 8, 3\], got \(1, 4, 16, 3\)"):
        jax.eval_shape(network.apply, *arguments)
    with pytest.raises(ValueError, match="three different numbers of features"):
        fn.resnet(8, features=(4, 4, 8))
    with pytest.raises(
        ValueError, match=r"patch that divides the images' \(32, 32\), got \(5, 4\)"
    ):
        fn.vit(patch=(5, 4))
    with pytest.raises(ValueError, match="depth of 6 m \\+ 2, such as 20 or 32, got 18"):
        fn.resnet(18)
