r"""Never NaN, never silently wrong: sets that break other code, in every precision, as one table.

Values are held between bounds that follow from the precision alone. If every distance is known to
within $\delta_{ij}$, then $m_i$ is to within the row's largest, $d_{ik} - d_{ij}$ to within the sum
of two, and every $\log \mathrm{CX}_{ij}$ lies in an interval (`_interval`); so does the loss. The
$\delta$ are the textbook bounds of a rounded sum of products (`_errors`).
"""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cxjax
from cxjax import distances
from cxjax.similarity import blockwise

N, C = 12, 16
EPSILON = 1e-5
DIRECTIONS = ["paper", "reverse", "symmetric"]
BANDWIDTHS = [0.1, 0.5]
UNIT = 2.0**-24  # of float32, in which half precision is computed too


def _cases():
    """Name to x, y."""
    rng = np.random.default_rng(0)
    x, y, noise = (rng.standard_normal((N, C)) for _ in range(3))
    y = 0.7 * y + 0.3
    half = np.arange(N)[:, None] < N // 2
    zeroed = lambda a, step: np.where(np.arange(N)[:, None] % step == 0, 0, a)
    return {
        "unlike": (x, y),
        "x == y": (y, y),
        **{f"copies to {s:g}": (y + s * noise, y) for s in 10.0 ** -np.arange(1, 8)},
        "half equal": (np.where(half, y, x), y),
        "constant": (np.full_like(x, 0.3), np.full_like(y, 0.7)),
        "zero": (0 * x, 0 * y),
        "zero rows": (zeroed(x, 2), zeroed(y, 3)),
        "one-hot": (np.eye(N, C), np.eye(N, C)),
        "huge": (1e6 * x, 1e6 * y),
        "tiny": (1e-6 * x, 1e-6 * y),
        "duplicated rows": (np.repeat(x[::2], 2, 0), np.repeat(y[::3], 3, 0)),
    }


CASES = _cases()
COMPARED = {"cosine": 8, "l2": 4, "l1": 8}  # gradients that the bounds know to a tenth, at least


def _errors(x, y, distance, bits):
    """What a distance can be wrong by, and the distances, both `(n, m)` in float64."""
    steps = x.shape[1] + 8  # additions, and the handful of other operations
    lengths = lambda a: np.linalg.norm(a, axis=1)
    if distance == "l1":
        d = np.abs(x[:, None] - y[None]).sum(axis=-1)
        return d, 2 * steps * UNIT * d
    mean = y.mean(axis=0)
    scale = max(lengths(x).max(), lengths(y).max())
    x, y = x - mean, y - mean
    a, b = lengths(x), lengths(y)
    if distance == "l2":
        size = (a[:, None] + b[None] + scale) ** 2
        d = np.square(x[:, None] - y[None]).sum(axis=-1)
        return d, (steps * UNIT + (0 if bits is None else 2.0**-bits)) * size
    # A direction is worth as much as what is left of it after centring.
    safe = lambda length: np.where(length == 0, 1, length)
    direction = steps * UNIT * (1 + scale / safe(a)[:, None] + scale / safe(b)[None])
    cosine = (x / safe(a)[:, None]) @ (y / safe(b)[:, None]).T
    return (1 - cosine) / 2, direction + (0 if bits is None else 2.0 ** -(bits + 1))


def _interval(x, y, distance, bandwidth, bits):
    """The smallest and the largest loss that distances so wrong can give.

    And whether no minimum or maximum could be another's: where two are closer than rounding, the
    gradient goes to one of them, and nobody can say to which.
    """
    d, error = _errors(x, y, distance, bits)
    worst = error.max(axis=1)
    minimum = d.min(axis=1)
    slow = 1 / (bandwidth * (minimum + worst + EPSILON))
    fast = 1 / (bandwidth * (np.maximum(minimum - worst, 0) + EPSILON))
    apart = d[:, None, :] - d[:, :, None]  # (i, j, k): how much farther k is than j
    slack = error[:, None, :] + error[:, :, None]
    slack[:, np.arange(len(y)), np.arange(len(y))] = 0  # k = j

    def log_cx(apart, large, small):
        rate = np.where(apart > 0, large[:, None, None], small[:, None, None])
        z = -rate * apart
        top = z.max(axis=-1, keepdims=True)
        return -(top[..., 0] + np.log(np.exp(z - top).sum(axis=-1)))

    rounded = lambda z: 16 * UNIT * (1 + np.abs(z))  # by the exponential and the logarithm

    def loss(log_cx):
        best = np.minimum(log_cx, 0).max(axis=0)
        return -(best.max() + np.log(np.exp(best - best.max()).mean()))

    highs, lows = log_cx(apart + slack, fast, slow), log_cx(apart - slack, slow, fast)
    highs, lows = highs + rounded(highs), lows - rounded(lows)
    rows, order = np.arange(len(x)), np.argsort(d, axis=1)
    first, second = order[:, 0], order[:, min(1, len(y) - 1)]
    decided = len(y) == 1 or (apart[rows, first, second] > slack[rows, first, second]).all()
    best = lows.argmax(axis=0)
    others = np.where(np.arange(len(x))[:, None] == best, -np.inf, highs)
    decided &= (others < lows.max(axis=0)).all()
    return loss(highs), loss(lows), decided


def _loss_interval(x, y, direction, *options):
    if direction == "symmetric":
        forth, back = _interval(x, y, *options), _interval(y, x, *options)
        lowest, highest = ((forth[k] + back[k]) / 2 for k in (0, 1))
        return lowest, highest, forth[2] and back[2]
    return _interval(x, y, *options) if direction == "paper" else _interval(y, x, *options)


def _rounded_product(bits):
    """A product whose operands keep that many bits of mantissa, as TF32 (10) or bfloat16 (7) do."""

    def product(x, y):
        round_ = lambda a: jax.lax.reduce_precision(a, 8, bits)
        return jax.lax.dot_general(round_(x), round_(y), (((1,), (1,)), ((), ())))

    return product


def _losses(variants, **options):
    """The loss and both gradients for every variant of the options, to be one program.

    Most of the time is compilation, and the second loss of a program costs a fraction of the first.
    """
    loss = functools.partial(cxjax.contextual_loss, **options)
    each = [jax.value_and_grad(functools.partial(loss, **v), (0, 1)) for v in variants]
    return lambda x, y: [f(x, y) for f in each]


def _run(names, dtype, variants, **options):
    """Losses and both gradients of the cases, as one batch in a dtype, of every variant.

    And the sets as rounded.
    """
    x, y = (np.stack([CASES[n][k] for n in names]).astype(jnp.dtype(dtype)) for k in (0, 1))
    run = jax.jit(jax.vmap(_losses(variants, epsilon=EPSILON, block_size=8, **options)))
    results = []
    for values, gradients in run(x, y):
        assert values.dtype == jnp.result_type(jnp.float32, dtype)
        assert all(gradient.dtype == dtype for gradient in gradients)
        results.append((np.asarray(values), [np.asarray(g, np.float64) for g in gradients]))
    return results, [np.asarray(a, np.float64) for a in (x, y)]


def _gradient_bounds(x, y, distance, bandwidth):
    r"""What each row of both gradients of the loss can be wrong by, to first order.

    With the symbols of `blockwise.py`: an exponent is wrong by $r_i \delta (1 + \tilde d_{ij})$,
    but for the row's minimum, whose exponent is 0; from these follow the errors of
    $\log \mathrm{CX}$, of $C$, and of every slope $\partial L / \partial d_{ij}$.
    """
    d, error = _errors(x, y, distance, None)
    rows, m = np.arange(len(x)), len(y)
    nearest = d.argmin(axis=1)
    relative = 1 / (d.min(axis=1, keepdims=True) + EPSILON)
    rate, ratio = relative / bandwidth, d * relative
    z = -rate * (d - d.min(axis=1, keepdims=True))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    exponent = rate * error.max(axis=1, keepdims=True) * (1 + ratio)
    exponent[rows, nearest] = 0
    log_cx = exponent + (p * exponent).sum(axis=1, keepdims=True) + 64 * UNIT * (1 - z)

    best = p.argmax(axis=0)
    won = rows[:, None] == best[None]
    share = np.where(won, p, 0) / p.max(axis=0).sum()  # -G_j, where it was won
    g_rows = share.sum(axis=1, keepdims=True)
    loss = (share * log_cx).sum()
    c = g_rows * p - share
    g_error = share * (log_cx + loss)
    c_error = g_error + p * (g_error.sum(axis=1, keepdims=True) + g_rows * log_cx)
    uncertain = error.max(axis=1, keepdims=True) * relative + 64 * UNIT  # of the rate, relatively
    slope = rate * (c_error + np.abs(c) * uncertain)
    to_nearest = rate[:, 0] * ((c_error + 2 * np.abs(c) * uncertain) * ratio).sum(axis=1)
    to_nearest += rate[:, 0] * (np.abs(c) * exponent * bandwidth).sum(axis=1)
    slope[rows, nearest] += to_nearest

    lengths = [np.linalg.norm(a - y.mean(axis=0), axis=1) for a in (x, y)]
    if distance == "cosine":
        steep = [0.5 / length for length in lengths]
    elif distance == "l2":
        steep = [2 * (lengths[0].max() + lengths[1].max()) + 0 * length for length in lengths]
    else:
        steep = [1 + 0 * length for length in lengths]
    of_x, of_y = slope.sum(axis=1) * steep[0], slope.sum(axis=0) * steep[1]
    if distance == "cosine":  # all that flows to the mean is shared by the targets
        of_y = of_y + (of_x.sum() + of_y.sum()) / m
    return of_x, of_y


def _all_gradient_bounds(x, y, direction, *options):
    forth, back = _gradient_bounds(x, y, *options), _gradient_bounds(y, x, *options)[::-1]
    if direction == "symmetric":
        return [(a + b) / 2 for a, b in zip(forth, back, strict=True)]
    return forth if direction == "paper" else back


@functools.cache
def _exact_gradients(distance, bandwidth):
    """Of batches, in float64."""
    options = {"distance": distance, "bandwidth": bandwidth, "epsilon": EPSILON}
    f = functools.partial(cxjax.contextual_loss, implementation="reference", **options)
    return jax.jit(jax.vmap(jax.grad(f, (0, 1))))


def _wanted_gradients(x, y, direction, *options):
    """What the directions mean: the roles exchanged, and the mean of both."""
    with jax.enable_x64(True):
        exact = _exact_gradients(*options)
        forth = [np.asarray(g) for g in exact(x, y)]
        back = [np.asarray(g) for g in exact(y, x)][::-1]
    if direction == "symmetric":
        return [(a + b) / 2 for a, b in zip(forth, back, strict=True)]
    return forth if direction == "paper" else back


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_every_case_is_finite_and_right(implementation, distance):
    pairs = [*itertools.product(DIRECTIONS, BANDWIDTHS)]
    variants = [{"direction": direction, "bandwidth": bandwidth} for direction, bandwidth in pairs]
    compared = collections.Counter()
    for dtype in ("float32", "bfloat16", "float16"):
        names = [name for name in CASES if (dtype, name) != ("float16", "huge")]
        results, (x, y) = _run(
            names, dtype, variants, implementation=implementation, distance=distance
        )
        for pair, (values, gradients) in zip(pairs, results, strict=True):
            compared[pair] += _check(x, y, names, dtype, values, gradients, distance, *pair)
    for pair in pairs:
        assert compared[pair] >= COMPARED[distance], (pair, compared)  # the bound says something


def _check(x, y, names, dtype, values, gradients, distance, direction, bandwidth):
    """The number of gradients that the bounds know to a tenth."""
    compared = 0
    options = direction, distance, bandwidth
    wanted = None if dtype == "float16" else _wanted_gradients(x, y, *options)
    for k, name in enumerate(names):
        about = f"{name}, {dtype}, {direction}, {bandwidth}"
        lowest, highest, decided = _loss_interval(x[k], y[k], *options, None)
        assert np.isfinite(values[k]), about
        assert values[k] >= -1e-6, about
        assert lowest - 1e-5 <= values[k] <= highest * (1 + 1e-5) + 1e-5, about
        assert all(np.isfinite(gradient[k]).all() for gradient in gradients), about
        if decided and dtype != "float16":  # whose gradients overflow
            bounds = _all_gradient_bounds(x[k], y[k], *options)
            for gradient, want, bound in zip(gradients, wanted, bounds, strict=True):
                size = np.abs(want[k]).max()
                bound = 2 * bound + jnp.finfo(dtype).eps * size + 1e-6
                off = np.abs(gradient[k] - want[k]).max(axis=1)
                assert (off <= bound).all(), (about, (off / bound).max())
                compared += bound.max() < 0.1 * size
        near = name.startswith("copies to") and float(name.split()[-1]) <= 1e-3
        if near and dtype == "float32":
            assert all(np.abs(gradient[k]).max() < 1e-5 for gradient in gradients), about
    return compared


@pytest.fixture(params=[10, 7], ids=["tf32", "bfloat16"])
def bits(request, monkeypatch):
    """Every matrix product of the library is rounded so."""
    rounded, traced = _rounded_product(request.param), []

    def product(x, y):
        traced.append(None)
        return rounded(x, y)

    monkeypatch.setattr(distances, "product", product)
    monkeypatch.setattr(blockwise, "product", product)
    blockwise._by_name.clear_cache()  # all that the library itself compiles
    yield request.param
    blockwise._by_name.clear_cache()
    assert traced


@pytest.mark.parametrize("distance", ["cosine", "l2"])  # L1 has no product
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_rounded_products_neither_break_nor_mislead(bits, implementation, distance):
    direction = "symmetric"  # both of the others
    variants = [{"bandwidth": bandwidth} for bandwidth in BANDWIDTHS]
    options = {"implementation": implementation, "distance": distance, "direction": direction}
    results, (x, y) = _run(list(CASES), "float32", variants, **options)
    for bandwidth, (values, gradients) in zip(BANDWIDTHS, results, strict=True):
        for k, name in enumerate(CASES):
            about = f"{name}, {bandwidth}"
            lowest, highest, _ = _loss_interval(x[k], y[k], direction, distance, bandwidth, bits)
            assert values[k] >= -1e-6, about
            assert lowest - 1e-5 <= values[k] <= highest * (1 + 1e-5) + 1e-5, about
            assert all(np.isfinite(gradient[k]).all() for gradient in gradients), about


def _unclamped_loss(x, y, product):
    """The equations without a clamp at 0, as most public code has them."""
    x, y = (a - y.mean(axis=0, keepdims=True) for a in (x, y))
    x, y = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    d = 1 - product(x, y)
    w = jnp.exp((1 - d / (d.min(axis=1, keepdims=True) + 1e-5)) / 0.5)
    return -jnp.log((w / w.sum(axis=1, keepdims=True)).max(axis=0).mean())


def test_the_rounding_is_one_that_breaks_the_equations_as_written(bits):
    y = jnp.asarray(CASES["x == y"][1], jnp.float32)
    assert jnp.isnan(_unclamped_loss(y, y, distances.product))


def test_the_bounds_are_tight_enough_to_fail():
    # Half the cases know their loss in float32 to a thousandth.
    known = 0
    for x, y in CASES.values():
        lowest, highest, _ = _interval(x, y, "cosine", 0.5, None)
        assert lowest <= highest
        known += highest - lowest < 1e-3
    assert known > len(CASES) / 2
    lowest, highest, _ = _interval(*CASES["half equal"], "cosine", 0.5, 10)
    assert highest - lowest < 0.1


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_cut_targets(distance):
    # From 512 on the targets are cut into slices, and rows are looked at in eights, and
    # here some are left over.
    rng = np.random.default_rng(0)
    y = rng.standard_normal((520, C))
    x = rng.standard_normal((20, C))
    cases = [
        (x, y),
        (y[:20], y),
        (y[:20] + 1e-3 * x, y),
        (np.where(np.arange(20)[:, None] < 10, y[:20], x), y),
        (0 * x + 0.3, 0 * y + 0.7),
        (x, np.repeat(y[::2], 2, 0)),
    ]
    x, y = (jnp.asarray(np.stack(sets), jnp.float32) for sets in zip(*cases, strict=True))
    f = functools.partial(cxjax.contextual_loss, distance=distance, bandwidth=0.1)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(f, (0, 1))))(x, y)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    for k, value in enumerate(np.asarray(values)):
        sets = (np.asarray(a[k], np.float64) for a in (x, y))
        lowest, highest, _ = _interval(*sets, distance, 0.1, None)
        assert value >= -1e-6
        assert lowest - 1e-5 <= value <= highest * (1 + 1e-5) + 1e-5, k


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_single_points(implementation, shape):
    n, m = shape
    x, y = CASES["unlike"]
    x, y = x[:n].astype(np.float32), y[:m].astype(np.float32)
    pairs = [*itertools.product(DIRECTIONS, ["cosine", "l2", "l1"])]
    variants = [{"direction": direction, "distance": distance} for direction, distance in pairs]
    results = jax.jit(_losses(variants, implementation=implementation))(x, y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    for pair, (value, gradients) in zip(pairs, results, strict=True):
        lowest, highest, _ = _loss_interval(x, y, *pair, 0.5, None)
        assert lowest - 1e-5 <= value <= highest + 1e-5, pair
        assert all(np.isfinite(gradient).all() for gradient in gradients), pair
