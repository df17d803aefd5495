"""The generators' layers in NumPy and float64, one image `(h w c)` at a time, and parameters."""

import jax
import numpy as np


def random_parameters(model, seed=0):
    """Parameters for every use: no gain is 1, no shift 0, and nothing is compiled."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((32, 32, 3), np.float32))
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return generator.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return generator.uniform(0.5, 1.5, leaf.shape) - (name == "bias")

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(np.float32, drawn)


def convolve(x, layer, *, stride=1, mode="constant"):
    kernel = np.float64(layer["kernel"])
    border = kernel.shape[0] // 2
    padded = np.pad(x, ((border, border), (border, border), (0, 0)), mode)
    rows, columns = -(-x.shape[0] // stride), -(-x.shape[1] // stride)
    out = np.zeros((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            patch = padded[top : top + kernel.shape[0], left : left + kernel.shape[1]]
            out[i, j] = np.tensordot(patch, kernel, 3)
    return out + layer.get("bias", 0)


def normalize(x, layer, group_size):
    out = np.empty_like(x)
    for first in range(0, x.shape[-1], group_size):
        group = x[..., first : first + group_size]
        out[..., first : first + group_size] = (group - group.mean()) / np.sqrt(group.var() + 1e-5)
    return out * layer["scale"] + layer["bias"]


def area(x, height, width):
    """Each pixel cut into as many parts as there are new ones, and the parts averaged."""
    h, w, c = x.shape
    parts = x.repeat(height, axis=0).repeat(width, axis=1)
    return parts.reshape(height, h, width, w, c).mean(axis=(1, 3))


def bilinear(x, height, width):
    def along(line, size):
        return np.interp(np.linspace(0, len(line) - 1, size), np.arange(len(line)), line)

    x = np.apply_along_axis(along, 0, x, height)
    return np.apply_along_axis(along, 1, x, width)
