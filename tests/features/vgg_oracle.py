"""VGG in float64 NumPy, from the paper's Table 1 and the conventions of each published file.

Nothing here comes from the package under test.
"""

import numpy as np

CONFIGURATION = {
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


def random_weights(network, seed=0):
    """Kernels (height, width, in, out) and biases of the true shapes, in the network's order."""
    generator = np.random.default_rng(seed)
    channels, weights = 3, []
    for token in CONFIGURATION[network].split():
        if token != "M":
            shape = (3, 3, channels, int(token))
            kernel = generator.standard_normal(shape, np.float32) * np.sqrt(2 / 9 / channels)
            bias = generator.standard_normal(shape[-1:], np.float32) * 0.2
            weights.append((kernel.astype(np.float32), bias))
            channels = shape[-1]
    return weights


def names(network):
    """conv1_1, conv1_2, conv2_1, ..."""
    block, index, found = 1, 1, []
    for token in CONFIGURATION[network].split():
        if token == "M":
            block, index = block + 1, 1
        else:
            found.append(f"conv{block}_{index}")
            index += 1
    return found


def prepare(image, convention):
    """RGB in [0, 1] to what the files' makers feed their networks."""
    image = np.asarray(image, np.float64)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    if convention == "torchvision":
        channels = [(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225]
    elif convention == "matconvnet":
        channels = [255 * red - 123.68, 255 * green - 116.779, 255 * blue - 103.939]
    elif convention == "keras":
        channels = [255 * blue - 103.939, 255 * green - 116.779, 255 * red - 123.68]
    return np.stack(channels, axis=-1)


POOLS = {
    "max": lambda cells: cells.max(axis=(1, 3)),
    "average": lambda cells: cells.mean(axis=(1, 3)),
    "l2": lambda cells: np.sqrt((cells**2).mean(axis=(1, 3))),
}


def forward(network, weights, x, pooling="max", edge_first=False):
    """Features of an image (h w c) that is prepared, by name, before and after each ReLU."""
    features, todo, block, index = {}, iter(weights), 1, 1
    for token in CONFIGURATION[network].split():
        height, width, channels = x.shape
        if token == "M":
            even = x[: height // 2 * 2, : width // 2 * 2]
            x = POOLS[pooling](even.reshape(height // 2, 2, width // 2, 2, channels))
            features[f"pool{block}"] = x
            block, index = block + 1, 1
            continue
        kernel, bias = next(todo)
        mode = "edge" if edge_first and (block, index) == (1, 1) else "constant"
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode)
        before = bias.astype(np.float64) + sum(
            padded[dy : dy + height, dx : dx + width] @ kernel[dy, dx].astype(np.float64)
            for dy in range(3)
            for dx in range(3)
        )
        x = np.maximum(before, 0)
        features[f"conv{block}_{index}_pre"] = before
        features[f"conv{block}_{index}"] = features[f"relu{block}_{index}"] = x
        index += 1
    return features
