"""First steps: a neuron, a network, its loss, the chain rule by hand, and steps of learning.

    python examples/first_steps.py

It prints (the last digits may differ):

    1. A neuron weighs its inputs, adds a bias, and bends the sum by an activation function.
       z = 1.0 * 0.5 + 2.0 * (-1.0) + 0.3 = -1.2000
       tanh(z) = -0.8337   sigmoid(z) = 0.2315   relu(z) = 0.0000

    2. A layer is several neurons with the same inputs, x W + b; a network is several layers.
       inputs   x              [1. 2.]
       sums     x W1 + b1      [0.7 0.9 0.1]
       hidden   h = tanh(sums) [0.6044 0.7163 0.0997]
       outputs  z = h W2 + b2  [ 0.1249 -0.0282]   net.apply says [ 0.1249 -0.0282]

    3. A loss says how wrong the outputs are. The truth here is class 0, as a vector [1, 0].
       mean squared error, mean((z - truth)^2): 0.3833
       cross-entropy, -log(p of class 0):       0.6195
       where p = exp(z) / sum(exp(z)):          [0.5382 0.4618]

    4. Backpropagation: the slope of the cross-entropy in every weight, by the chain rule.
       delta of the outputs   p - truth              [-0.4618  0.4618]
       delta of the hidden    (W2 delta) (1 - h^2)   [-0.2931  0.1574  0.2286]
       slopes of W1: outer product (x, delta)        the same by jax.grad
       [-0.2931  0.1574  0.2286]                     [-0.2931  0.1574  0.2286]
       [-0.5862  0.3148  0.4572]                     [-0.5862  0.3148  0.4572]
       largest difference in any slope of the network: 3e-08

    5. An optimizer makes an update of a gradient. Twice the same gradient, that of b1:
       gradient    [-0.2931  0.1574  0.2286]
       rate 0.1    first update                second update
       sgd         [ 0.0293 -0.0157 -0.0229]   [ 0.0293 -0.0157 -0.0229]
       momentum    [ 0.0293 -0.0157 -0.0229]   [ 0.0557 -0.0299 -0.0434]
       nesterov    [ 0.0557 -0.0299 -0.0434]   [ 0.0794 -0.0427 -0.062 ]
       adagrad     [ 0.1 -0.1 -0.1]            [ 0.0707 -0.0707 -0.0707]
       rmsprop     [ 0.3162 -0.3162 -0.3162]   [ 0.2294 -0.2294 -0.2294]
       adam        [ 0.1 -0.1 -0.1]            [ 0.1 -0.1 -0.1]
       Momentum gathers speed; the last three take steps alike for large and for small slopes.

    6. Real digits: the gradient over a few images is a noisy guess at that over all 1,198.
                     at the start, 100 batches     after 200 steps of SGD, rate 0.1
       batch size    |gradient|   cosine to all    images seen   last 50 losses   test accuracy
                1   3.32 ± 0.36            0.14            200      1.37 ± 1.17          57.4 %
               32   0.72 ± 0.11            0.63          6,400      0.50 ± 0.12          90.8 %
            1,198   0.45 ± 0.00            1.00        239,600      0.49 ± 0.05          91.7 %
       Small batches are noisy and cheap, large ones exact and dear; 32 is a good bargain.
"""

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import funcnet as fn

jnp.set_printoptions(precision=4, suppress=True)

print("1. A neuron weighs its inputs, adds a bias, and bends the sum by an activation function.")
x, w, b = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0]), 0.3
z = x @ w + b
print(f"   z = 1.0 * 0.5 + 2.0 * (-1.0) + 0.3 = {z:.4f}")
tanh, sigmoid, relu = jnp.tanh(z), jax.nn.sigmoid(z), jax.nn.relu(z)
print(f"   tanh(z) = {tanh:.4f}   sigmoid(z) = {sigmoid:.4f}   relu(z) = {relu:.4f}")

print("\n2. A layer is several neurons with the same inputs, x W + b; a network is several layers.")
net = fn.serial(fn.dense(2, 3), fn.tanh, fn.dense(3, 2))
_, state = net.init(jax.random.key(0))  # draws random weights; here we choose them ourselves
W1, b1 = jnp.array([[0.1, -0.2, 0.4], [0.3, 0.5, -0.1]]), jnp.array([0.0, 0.1, -0.1])
W2, b2 = jnp.array([[0.7, -0.3], [-0.5, 0.2], [0.1, 0.6]]), jnp.array([0.05, -0.05])
params = ({"weight": W1, "bias": b1}, (), {"weight": W2, "bias": b2})
h = jnp.tanh(x @ W1 + b1)
z = h @ W2 + b2
y, _ = net.apply(params, state, x[None])  # a batch of one: its first axis counts the examples
print(f"   inputs   x              {x}")
print(f"   sums     x W1 + b1      {x @ W1 + b1}")
print(f"   hidden   h = tanh(sums) {h}")
print(f"   outputs  z = h W2 + b2  {z}   net.apply says {y[0]}")

print("\n3. A loss says how wrong the outputs are. The truth here is class 0, as a vector [1, 0].")
truth, label = jnp.array([1.0, 0.0]), jnp.array([0])
p = jax.nn.softmax(z)
print(f"   mean squared error, mean((z - truth)^2): {fn.mean_squared_error(y, truth[None])[0]:.4f}")
print(f"   cross-entropy, -log(p of class 0):       {fn.cross_entropy(y, label)[0]:.4f}")
print(f"   where p = exp(z) / sum(exp(z)):          {p}")

print("\n4. Backpropagation: the slope of the cross-entropy in every weight, by the chain rule.")
delta2 = p - truth  # d loss / d z, for softmax and cross-entropy together
delta1 = (W2 @ delta2) * (1 - h**2)  # back through W2, times the slope of tanh
by_hand = (
    {"weight": jnp.outer(x, delta1), "bias": delta1},
    (),
    {"weight": jnp.outer(h, delta2), "bias": delta2},
)
task = fn.supervised(net, fn.cross_entropy)
by_jax, _ = jax.grad(task.loss, has_aux=True)(params, state, (x[None], label))
print(f"   delta of the outputs   p - truth              {delta2}")
print(f"   delta of the hidden    (W2 delta) (1 - h^2)   {delta1}")
print("   slopes of W1: outer product (x, delta)        the same by jax.grad")
for hand, auto in zip(by_hand[0]["weight"], by_jax[0]["weight"], strict=True):
    print(f"   {hand!s:46}{auto}")
difference = jax.tree.map(lambda hand, auto: jnp.abs(hand - auto).max(), by_hand, by_jax)
print(f"   largest difference in any slope of the network: {max(jax.tree.leaves(difference)):.0e}")

print("\n5. An optimizer makes an update of a gradient. Twice the same gradient, that of b1:")
gradient = by_jax[0]["bias"]
print(f"   {'gradient':12}{gradient}\n   {'rate 0.1':12}{'first update':28}second update")
for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"):
    optimizer = getattr(fn, name)(0.1)
    first, memory = optimizer.update(gradient, optimizer.init(b1), b1)
    second, _ = optimizer.update(gradient, memory, fn.apply_updates(b1, first))
    print(f"   {name:12}{first!s:28}{second}")
print("   Momentum gathers speed; the last three take steps alike for large and for small slopes.")

print("\n6. Real digits: the gradient over a few images is a noisy guess at that over all 1,198.")
train, test = jax.tree.map(jnp.asarray, fn.datasets.digits())
task = fn.supervised(fn.mlp((64, 32, 10)), fn.cross_entropy, metrics={"accuracy": fn.accuracy})
trainer = fn.trainer(task, fn.sgd(0.1))
start = trainer.init(jax.random.key(0))  # the weights that all runs below start from


@functools.partial(jax.jit, static_argnames="size")
def gradients(size):
    """At the start, over 100 batches of `size` random images: one row a batch."""

    def gradient(step):
        indices = fn.batch_indices(start.key, step, 1198, size)
        batch = jax.tree.map(lambda array: array[indices], train)
        slopes, _ = jax.grad(task.loss, has_aux=True)(start.params, start.state, batch)
        return ravel_pytree(slopes)[0]

    return jax.lax.map(gradient, jnp.arange(100))


full = gradients(1198)[0]
print("                 at the start, 100 batches     after 200 steps of SGD, rate 0.1")
print("   batch size    |gradient|   cosine to all    images seen   last 50 losses   test accuracy")
for size in (1, 32, 1198):
    norms = jnp.linalg.norm(gradients(size), axis=1)
    cosines = gradients(size) @ full / norms / jnp.linalg.norm(full)
    run = jax.jit(functools.partial(fn.resume, steps=200, batch_size=size))  # compiled as a whole
    result = run(trainer, train, start)
    last, scores = result.loss[-50:], jax.jit(fn.evaluate)(trainer, result.state, test)
    accuracy = 100 * scores["accuracy"]
    print(
        f"   {size:10,}   {norms.mean():.2f} ± {norms.std():.2f}  {cosines.mean():14.2f}"
        f"{200 * size:15,}      {last.mean():.2f} ± {last.std():.2f}{accuracy:14.1f} %"
    )
print("   Small batches are noisy and cheap, large ones exact and dear; 32 is a good bargain.")
