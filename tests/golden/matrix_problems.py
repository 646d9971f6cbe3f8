"""The problem of the matrix optimizers' golden trajectories, in formulas that read the same in
`jax.numpy`, `torch` and NumPy."""

SHAPES = {"rectangular": ((3, 5), (5, 2)), "square": ((4, 4), (4, 4))}


def waves(xp, shape, power, phase):
    """sin(i^power + phase), i = 0, 1, ... over the shape: full rank, and nothing random."""
    index = xp.arange(shape[0] * shape[1], dtype=xp.float64)
    return xp.sin(index**power + phase).reshape(shape)


def start(shape, xp):
    """[fan_in, fan_out] for each of the two matrices."""
    return [0.5 * waves(xp, matrix, 1.5, 1.0 + 2.3 * k) for k, matrix in enumerate(SHAPES[shape])]


def regression(params, xp):
    """The mean squared error of a tanh network without biases over 16 examples."""
    first, second = params
    x = waves(xp, (16, first.shape[0]), 1.3, 0.0)
    target = waves(xp, (16, second.shape[1]), 1.2, 1.0)
    return ((xp.tanh(x @ first) @ second - target) ** 2).mean()


def warm(size, k, xp):
    """A Gram matrix of distinct eigenvalues, and an orthogonal basis that is not its own."""
    x, y = waves(xp, (size, size), 1.4, 0.3 + k), waves(xp, (size, 1), 1.1, 0.7 + k)
    return 0.1 * x @ x.T, xp.eye(size, dtype=xp.float64) - 2.0 * y @ y.T / (y * y).sum()
