"""Eigenvectors and powers of symmetric matrices, [..., n, n], whose derivatives are finite also
where eigenvalues coincide or vanish."""

import jax
import jax.numpy as jnp


def transpose(x):
    return jnp.swapaxes(x, -2, -1)


def identities(like):
    """As many identity matrices as there are matrices."""
    return jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), like.shape)


@jax.custom_jvp
def inverse_root(matrix, eps, exponent):
    """(A + eps I)^-p for A positive semidefinite, p the exponent."""
    values, vectors = jnp.linalg.eigh(matrix)
    powers = (jnp.maximum(values, 0.0) + eps) ** -exponent
    return vectors * powers[..., None, :] @ transpose(vectors)


@inverse_root.defjvp
def inverse_root_jvp(primals, tangents):
    """V (D * (V^T dA V)) V^T with D the divided differences of x^-p over the eigenvalues
    (Daleckii & Krein 1965), which are the derivative where two of them are equal."""
    (matrix, eps, exponent), (d_matrix, d_eps, d_exponent) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    values = jnp.maximum(values, 0.0) + eps
    powers = values**-exponent
    one, other = values[..., :, None], values[..., None, :]
    larger = jnp.maximum(one, other)
    log_ratio = jnp.log(jnp.minimum(one, other) / larger)
    equal = log_ratio > -jnp.finfo(matrix.dtype).eps
    log_ratio = jnp.where(equal, -1.0, log_ratio)
    quotient = jnp.expm1(-exponent * log_ratio) / jnp.expm1(log_ratio)
    differences = larger ** (-exponent - 1.0) * jnp.where(equal, -exponent, quotient)
    unit = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    turned = transpose(vectors) @ d_matrix @ vectors + d_eps * unit
    turned = differences * turned - d_exponent * unit * (jnp.log(values) * powers)[..., None, :]
    root = vectors * powers[..., None, :] @ transpose(vectors)
    return root, vectors @ turned @ transpose(vectors)


@jax.custom_jvp
def eigenbasis(matrix):
    """The eigenvectors in the columns, that of the largest eigenvalue first."""
    return jnp.linalg.eigh(matrix)[1][..., ::-1]


@eigenbasis.defjvp
def eigenbasis_jvp(primals, tangents):
    """dV = V W, W_ij = (V^T dA V)_ij / (l_j - l_i), and 0 where that difference is rounding."""
    (matrix,), (d_matrix,) = primals, tangents
    values, vectors = (x[..., ::-1] for x in jnp.linalg.eigh(matrix))
    gaps = values[..., None, :] - values[..., :, None]
    size = jnp.abs(values).max(-1, keepdims=True, initial=0.0)[..., None]
    apart = jnp.abs(gaps) > rounding(matrix) * size
    turn = transpose(vectors) @ d_matrix @ vectors
    return vectors, vectors @ jnp.where(apart, turn / jnp.where(apart, gaps, 1.0), 0.0)


@jax.custom_jvp
def orthonormal(matrix):
    """Q of the square matrix Q R, R upper triangular."""
    return jnp.linalg.qr(matrix)[0]


@orthonormal.defjvp
def orthonormal_jvp(primals, tangents):
    """dQ = Q (X - X^T), X the part below the diagonal of Q^T dA R^-1, in which a column counts as
    constant where R's diagonal is rounding."""
    (matrix,), (d_matrix,) = primals, tangents
    q, r = jnp.linalg.qr(matrix)
    diagonal = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1))
    large = diagonal > rounding(matrix) * diagonal.max(-1, keepdims=True, initial=0.0)
    r = jnp.where(large[..., None, :], r, identities(r))
    x = jax.scipy.linalg.solve_triangular(
        transpose(r), transpose(transpose(q) @ d_matrix), lower=True
    )
    x = jnp.tril(jnp.where(large[..., None, :], transpose(x), 0.0), -1)
    return q, q @ (x - transpose(x))


def rounding(matrix):
    """What counts as none, relative to the largest."""
    return 10.0 * matrix.shape[-1] * jnp.finfo(matrix.dtype).eps
