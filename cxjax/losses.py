"""Losses between two images, or their features, that need not be aligned: arrays in, scalar out.

Options are keyword-only. A point set is `(n, c)`: `n` points of `c` channels, in any order; a
feature map `(h, w, c)` is one after `reshape(-1, c)`. One pair per call; `jax.vmap` gives a batch.
NumPy arrays are accepted. Half-precision inputs are computed in float32 and give a float32 loss;
the gradient comes back in the input's dtype.
"""

import math
import numbers
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cxjax.distances import Distance, DistanceName, absolute
from cxjax.options import check_option
from cxjax.similarity import blockwise, reference

AnyArray = Array | np.ndarray
Direction = Literal["paper", "reverse", "symmetric"]
Implementation = Literal["blockwise", "reference"]
Reduction = Literal["mean", "paper"]


def contextual_similarity(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    distance: Distance = "cosine",
    bandwidth: float = 0.5,
    epsilon: float = 1e-5,
    implementation: Implementation = "blockwise",
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Contextual similarity CX of a source set to a target set.

    With $d_{ij}$ the distance of source $i$ to target $j$,

    $$\tilde d_{ij} = \frac{d_{ij}}{\min_k d_{ik} + \epsilon}, \quad
    w_{ij} = e^{(1 - \tilde d_{ij}) / h}, \quad
    \mathrm{CX}_{ij} = \frac{w_{ij}}{\sum_k w_{ik}}, \quad
    \mathrm{CX}(x, y) = \frac{1}{m} \sum_j \max_i \mathrm{CX}_{ij}$$

    Positions play no part, so the images need not be aligned, nor of one size. Where several
    entries share a minimum or a maximum, the lowest index takes the gradient.

    Args:
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      distance: `"cosine"`, $(1 - \cos) / 2$ of both sets less the target's mean; `"l2"`, squared;
        `"l1"`; or a function `(b, c), (m, c) -> (b, m)` of non-negative distances, whose row `i`
        depends on row `i` of its first argument alone. It is given the points uncentred, in
        the dtype of the computation. Outside `jit` it is compiled anew at every call.
      bandwidth: $h$, a positive Python number; smaller is closer to nearest neighbours.
      epsilon: $\epsilon$, a positive Python number, in the distance's unit.
      implementation: `"blockwise"` holds a block of rows of the distances, `"reference"` the whole
        `n x m`; they are equal. Forward mode (`jax.jvp`, `jax.jacfwd`) needs `"reference"`;
        `jax.hessian`, which is forward over reverse, does not.
      block_size: Rows that `"blockwise"` holds at a time, at least 2; `None` chooses.

    Returns:
      CX, a scalar in (0, 1].

    Raises:
      ValueError: If a set is not `(n, c)`, is empty or not floating, the channels differ, or an
        option has an unknown or impossible value.
      TypeError: If `bandwidth` or `epsilon` is traced: they are fixed when the program is built;
        or by JAX, if forward mode meets `"blockwise"`.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> print(f"{contextual_similarity(x, -x, bandwidth=1.0):.3f}")
      0.620

    References:
      Mechrez et al., `The Contextual Loss for Image Transformation with Non-Aligned Data
      <https://arxiv.org/abs/1803.02077>`_, ECCV 2018, section 3. As in the authors' code the cosine
      distance is halved, so that $\epsilon$ weighs twice as much as on $1 - \cos$; unlike there,
      the mean is the target image's own, not the batch's.
    """
    return jnp.exp(
        -_minus_log_similarity(x, y, distance, bandwidth, epsilon, implementation, block_size)
    )


def contextual_loss(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    direction: Direction = "paper",
    distance: Distance = "cosine",
    bandwidth: float = 0.5,
    epsilon: float = 1e-5,
    implementation: Implementation = "blockwise",
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Contextual loss: minus the logarithm of the contextual similarity.

    $$L(x, y) = -\log \mathrm{CX}(x, y)$$

    Args:
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      direction: `"paper"` is $L(x, y)$; `"reverse"` is $L(y, x)$, the roles wholly exchanged (`x`
        centres and normalises); `"symmetric"` is the mean of the two.
      distance: As in `contextual_similarity`.
      bandwidth: $h$, as there.
      epsilon: $\epsilon$, as there.
      implementation: As there.
      block_size: As there.

    Returns:
      A scalar, at least 0: at most `log(m)` when every source is equally far from all targets.

    Raises:
      ValueError: As `contextual_similarity`.
      TypeError: As `contextual_similarity`.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> print(f"{contextual_loss(x, -x, bandwidth=1.0):.3f}")
      0.479

    References:
      Mechrez et al., ECCV 2018, section 3; see `contextual_similarity`.
    """
    check_option("direction", direction, Direction)
    options = (distance, bandwidth, epsilon, implementation, block_size)
    if direction == "paper":
        return _minus_log_similarity(x, y, *options)
    if direction == "reverse":
        return _minus_log_similarity(y, x, *options)
    forth = _minus_log_similarity(x, y, *options)
    return (forth + _minus_log_similarity(y, x, *options)) / 2


def contextual_matches(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    distance: Distance = "cosine",
    bandwidth: float = 0.5,
    epsilon: float = 1e-5,
    implementation: Implementation = "blockwise",
    block_size: int | None = None,
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    r"""The source point that each target point is matched with: the arrows of the paper's Fig. 3.

    Args:
      x: Source points, `(n, c)`, floating.
      y: Target points, `(m, c)`.
      distance: As in `contextual_similarity`.
      bandwidth: $h$, as there.
      epsilon: $\epsilon$, as there.
      implementation: As there.
      block_size: As there.

    Returns:
      The index $\arg\max_i \mathrm{CX}_{ij}$ of each target's source, the lowest on ties, and the
      similarity $\max_i \mathrm{CX}_{ij}$, both `(m,)`. The mean of the similarities is CX.

    Raises:
      ValueError: As `contextual_similarity`.
      TypeError: As `contextual_similarity`.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> index, similarity = contextual_matches(x, x[::-1])
      >>> print(index)
      [2 1 0]

    References:
      Mechrez et al., ECCV 2018, Fig. 3.
    """
    log_best, index = _log_best(x, y, distance, bandwidth, epsilon, implementation, block_size)
    return index, jnp.exp(log_best)


def l1_loss(
    x: Float[AnyArray, "*shape"], y: Float[AnyArray, "*shape"], *, reduction: Reduction = "mean"
) -> Float[Array, ""]:
    r"""L1 loss of aligned images.

    Args:
      x: An image or any array.
      y: The target, of the same shape.
      reduction: `"mean"`, the mean absolute difference; `"paper"`, the 1-norm $\|x - y\|_1$.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If the shapes differ, are empty or not floating, or the reduction is unknown.

    Example:
      >>> print(l1_loss(jnp.ones((2, 2, 3)), jnp.zeros((2, 2, 3)), reduction="paper"))
      12.0

    References:
      Mechrez et al., ECCV 2018: the baseline $\|G(s) - t\|_1$.
    """
    difference = absolute(_difference(x, y, reduction))
    return difference.mean() if reduction == "mean" else difference.sum()


def l2_loss(
    x: Float[AnyArray, "*shape"], y: Float[AnyArray, "*shape"], *, reduction: Reduction = "mean"
) -> Float[Array, ""]:
    r"""L2 loss of aligned images.

    Args:
      x: An image or any array.
      y: The target, of the same shape.
      reduction: `"mean"`, the mean squared difference; `"paper"`, the 2-norm $\|x - y\|_2$, whose
        gradient at `x == y` is 0 here.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: As `l1_loss`.

    Example:
      >>> print(l2_loss(jnp.full((2, 2), 3.0), jnp.zeros((2, 2)), reduction="paper"))
      6.0

    References:
      Mechrez et al., ECCV 2018: the baseline $\|G(s) - t\|_2$.
    """
    squared = jnp.square(_difference(x, y, reduction))
    if reduction == "mean":
        return squared.mean()
    total = squared.sum()
    return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))


def perceptual_loss(
    x: Float[AnyArray, "*shape"], y: Float[AnyArray, "*shape"], *, reduction: Reduction = "mean"
) -> Float[Array, ""]:
    r"""Perceptual loss: L1 of the features of aligned images.

    Args:
      x: Features of the image being made, such as one layer of VGG.
      y: Features of the target, of the same shape.
      reduction: `"mean"`, the mean absolute difference; `"paper"`, the 1-norm
        $\|\Phi(x) - \Phi(y)\|_1$.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: As `l1_loss`.

    Example:
      >>> print(perceptual_loss(jnp.ones((4, 8)), jnp.zeros((4, 8))))
      1.0

    References:
      Johnson et al., ECCV 2016 (with squared differences); the 1-norm as in Mechrez et al.,
      ECCV 2018, and Chen & Koltun, ICCV 2017.
    """
    return l1_loss(x, y, reduction=reduction)


def gram_loss(
    x: Float[AnyArray, "*positions c"],
    y: Float[AnyArray, "*other_positions c"],
    *,
    reduction: Reduction = "mean",
) -> Float[Array, ""]:
    r"""Gram loss: difference of the features' second moments, whatever their positions.

    $$\mathrm{Gram}(x) = \sum_i x_i x_i^\top$$

    Args:
      x: Features of the image being made, `(h, w, c)` or `(n, c)`.
      y: Features of the target; positions may differ in number from those of `x`.
      reduction: `"mean"`, the mean squared difference of the Gram matrices, each divided by `h w c`
        of its own features; `"paper"`, the squared Frobenius norm
        $\|\mathrm{Gram}(x) - \mathrm{Gram}(y)\|_F^2$.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If the channels differ, an array is empty, not floating or has fewer than two
        axes, or the reduction is unknown.

    Example:
      >>> print(gram_loss(jnp.ones((4, 4, 2)), jnp.zeros((3, 2)), reduction="paper"))
      1024.0

    References:
      Gatys et al., CVPR 2016; the formula as in Mechrez et al., ECCV 2018.
    """
    check_option("reduction", reduction, Reduction)
    x, y = _as_arrays(x, y)
    _check_floating(x, y)
    if min(x.ndim, y.ndim) < 2 or 0 in (x.size, y.size) or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            "x and y must be features (h, w, c) or (n, c) with the same number of channels and at "
            f"least one position; got x of shape {x.shape} and y of shape {y.shape}"
        )
    difference = _gram(x, reduction) - _gram(y, reduction)
    squared = jnp.square(difference)
    return squared.mean() if reduction == "mean" else squared.sum()


def _gram(features: Array, reduction: Reduction) -> Array:
    points = features.reshape(-1, features.shape[-1])
    gram = jnp.matmul(points.T, points, precision=jax.lax.Precision.HIGHEST)
    return gram / points.size if reduction == "mean" else gram


def total_variation(image: Float[AnyArray, "*batch h w c"]) -> Float[Array, ""]:
    r"""Total variation: the mean squared difference of neighbours, rows plus columns.

    Args:
      image: One image `(h, w, c)` or several. A direction with a single pixel adds nothing.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If the image has fewer than three axes, is empty or not floating.

    Example:
      >>> print(total_variation(jnp.array([[0.0, 1.0], [0.0, 1.0]])[..., None]))
      1.0

    References:
      The squared form of Johnson et al., ECCV 2016, as means rather than sums, so that its weight
      does not depend on the image's size.
    """
    (image,) = _as_arrays(image)
    _check_floating(image)
    if image.ndim < 3 or image.size == 0:
        raise ValueError(f"image must be (h, w, c) or (..., h, w, c); got shape {image.shape}")
    down = jnp.square(jnp.diff(image, axis=-3))
    across = jnp.square(jnp.diff(image, axis=-2))
    return down.sum() / max(down.size, 1) + across.sum() / max(across.size, 1)


# --- Shared by the contextual losses ---


def _minus_log_similarity(x, y, distance, bandwidth, epsilon, implementation, block_size) -> Array:
    """-log mean_j max_i CX_ij, without leaving log space; never below 0, nor -0."""
    log_best, _ = _log_best(x, y, distance, bandwidth, epsilon, implementation, block_size)
    top = jax.lax.stop_gradient(log_best.max())
    return jnp.log(1 / jnp.exp(log_best - top).mean()) - top


def _log_best(x, y, distance: Distance, bandwidth, epsilon, implementation, block_size):
    check_option("implementation", implementation, Implementation)
    if not callable(distance):
        check_option("distance", distance, DistanceName, more=" or a function")
    bandwidth = _positive("bandwidth", bandwidth)
    epsilon = _positive("epsilon", epsilon)
    x, y = _as_arrays(x, y)
    _check_points(x, y)
    if bandwidth * epsilon**2 < jnp.finfo(x.dtype).tiny:  # the largest slope is its inverse
        raise ValueError(
            f"bandwidth {bandwidth} and epsilon {epsilon} are too small together for {x.dtype}"
        )
    if callable(distance):
        _check_distances(jax.eval_shape(distance, x, y), x, y)
    if implementation == "reference":
        return reference.log_best(x, y, distance=distance, bandwidth=bandwidth, epsilon=epsilon)
    if block_size is not None:
        if isinstance(block_size, bool) or not hasattr(block_size, "__index__") or block_size < 1:
            raise ValueError(f"block_size must be a positive integer or None; got {block_size!r}")
        block_size = operator.index(block_size)
    try:
        return blockwise.log_best(
            x, y, distance=distance, bandwidth=bandwidth, epsilon=epsilon, block_size=block_size
        )
    except TypeError as error:
        if "forward-mode" in str(error):  # JAX names its mechanism, not what the caller can do
            error.add_note(
                "implementation='blockwise' has a reverse-mode derivative only: use "
                "implementation='reference' for jax.jvp and jax.jacfwd of the loss itself. "
                "jax.hessian works with both."
            )
        raise


# --- Checks of what a user can get wrong ---


def _as_arrays(*arrays: Any) -> list[Array]:
    """The arrays in one dtype, at least float32; others than floating are refused later."""
    found = [jnp.asarray(array) for array in arrays]
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in found):
        return found
    dtype = jnp.result_type(jnp.float32, *found)
    return [array.astype(dtype) for array in found]


def _check_floating(*arrays: Array) -> None:
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays):
        given = " and ".join(str(array.dtype) for array in arrays)
        raise ValueError(
            f"floating-point arrays are needed; got {given}. Convert with .astype(jnp.float32), "
            "images of 0-255 also with / 255"
        )


def _check_points(x: Array, y: Array) -> None:
    shapes = f"got x of shape {x.shape} and y of shape {y.shape}"
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"x and y must be point sets (n, c) and (m, c); {shapes}. Turn a feature map (h, w, c) "
            "into points with .reshape(-1, c), and use jax.vmap for a batch"
        )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of channels; {shapes}")
    if 0 in x.shape or 0 in y.shape:
        raise ValueError(f"x and y must each hold at least one point and one channel; {shapes}")
    _check_floating(x, y)


def _check_distances(distances: Any, x: Array, y: Array) -> None:
    expected = (x.shape[0], y.shape[0])
    shape, dtype = getattr(distances, "shape", None), getattr(distances, "dtype", None)
    if shape != expected or dtype != x.dtype:
        raise ValueError(
            f"the distance function must return {x.dtype} of shape {expected} for x of shape "
            f"{x.shape} and y of shape {y.shape}; it returned {dtype} of shape {shape}"
        )


def _positive(name: str, value: Any) -> float:
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python number, fixed when the program is built; got "
            f"{value}. Pass it as a static argument, or as float({name}) outside jit"
        )
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number; got {value!r}")
    return float(value)


def _difference(x: Any, y: Any, reduction: Reduction) -> Array:
    check_option("reduction", reduction, Reduction)
    x, y = _as_arrays(x, y)
    if x.shape != y.shape or x.size == 0:
        raise ValueError(
            "x and y must have the same shape and not be empty; "
            f"got x of shape {x.shape} and y of shape {y.shape}"
        )
    _check_floating(x, y)
    return x - y
