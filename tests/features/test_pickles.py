import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest

from cxjax.features.pickles import open_flax_pickle, open_torch
from cxjax.features.weights import load_vgg
from tests.features import vgg_oracle, weight_files

WRITERS = {"zip": weight_files.write_pth_zip, "legacy": weight_files.write_pth_legacy}


class _Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def _read(path):
    with open_torch(path) as entries:
        return {key: entry.read() for key, entry in entries.items()}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_unsafe_pth_is_refused_and_does_nothing(tmp_path, writer):
    path, target = tmp_path / "weights.pth", tmp_path / "made"
    WRITERS[writer](path, {"features.0.weight": np.ones(3), "x": _Harmful(target)})
    with pytest.raises(ValueError, match=rf"{path} is refused as unsafe: .* asks for posix.mkdir"):
        load_vgg("vgg19", path=path)
    assert not target.exists()


def test_an_unsafe_ckpt_is_refused_and_does_nothing(tmp_path):
    path, target = tmp_path / "weights.ckpt", tmp_path / "made"
    path.write_bytes(pickle.dumps({"VGG16_0": _Harmful(target)}))
    with pytest.raises(ValueError, match=rf"{path} is refused as unsafe: .* asks for posix.mkdir"):
        load_vgg("vgg16", path=path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # it would have done harm


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("collections", "defaultdict"),
        ("numpy", "load"),
    ],
)
@pytest.mark.parametrize("header", [False, True])
def test_no_other_global_is_known(tmp_path, module, name, header):
    path = tmp_path / "weights.pth"
    evil = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    with path.open("wb") as file:
        if not header:  # where the state dict stands; else where the magic number stands
            pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
            pickle.dump(1001, file, protocol=2)
            pickle.dump({"little_endian": True}, file, protocol=2)
        file.write(evil)
    with pytest.raises(ValueError, match=f"unsafe: its pickle asks for {module}.{name}"):
        load_vgg("vgg19", path=path)
    path = path.with_suffix(".ckpt")
    path.write_bytes(evil)
    with pytest.raises(ValueError, match=f"unsafe: its pickle asks for {module}.{name}"):
        load_vgg("vgg16", path=path)


@pytest.mark.parametrize("writer", WRITERS)
def test_tensors_of_any_stride_and_size_are_read(tmp_path, writer):
    generator = np.random.default_rng(0)
    plain = generator.standard_normal((5, 4, 3, 2)).astype(np.float32)
    state = {
        "plain": plain,
        "last": np.moveaxis(np.moveaxis(plain, 1, -1).copy(), -1, 1),
        "transposed": plain.T,
        "double": generator.standard_normal(7),
        "scalar": np.array(1.5, np.float32),
    }
    path = tmp_path / "weights.pth"
    WRITERS[writer](path, state)
    found = _read(path)
    assert set(found) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value)


def _zip_with(path, shape, stride, offset=0):
    """A tensor over a storage of six numbers, laid out as is said."""
    weight_files.write_pth_zip(path, {"w": np.arange(6, dtype=np.float32)})
    with zipfile.ZipFile(path) as archive:
        names = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in names if name.endswith("data.pkl"))
    numbers = lambda values: b"".join(b"J" + v.to_bytes(4, "little", signed=True) for v in values)
    assert names[name].count(b"QK\x00K\x06\x85") == 1  # offset 0, shape (6,)
    head, tail = names[name].split(b"QK\x00K\x06\x85", 1)
    tail = tail[tail.index(b"K\x01\x85") + 3 :]  # stride (1,)
    layout = b"Q" + numbers([offset]) + b"(" + numbers(shape) + b"t(" + numbers(stride) + b"t"
    names[name] = head + layout + tail
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in names.items():
            archive.writestr(each, content)


def test_a_tensor_never_reaches_beyond_its_storage(tmp_path):
    path = tmp_path / "weights.pth"
    _zip_with(path, (2, 2), (2, 1), offset=2)
    np.testing.assert_array_equal(_read(path)["w"], [[2, 3], [4, 5]])  # the last that fits
    for shape, stride, offset in [
        ((2, 2), (2, 1), 3),
        ((7,), (1,), 0),
        ((2,), (6,), 0),
        ((2,), (-1,), 1),
        ((1,), (1,), -1),
        ((2, 2), (1,), 0),
    ]:
        _zip_with(path, shape, stride, offset)
        with pytest.raises(ValueError, match="exceeds its storage of 6|impossible tensor"):
            _read(path)


def test_a_part_of_a_legacy_storage_is_read(tmp_path):
    """Before torch 0.4 a storage could be a part of another."""
    array = np.arange(10, dtype=np.float32)
    path = tmp_path / "weights.pth"
    weight_files.write_pth_legacy(path, {"w": array})
    content = path.read_bytes()
    # (..., size, None) becomes (..., size, ("1", 4, 3)), and the tensor has three numbers.
    whole = b"K\nNtq"
    assert content.count(whole) == 1
    content = content.replace(whole, b"K\nX\x01\x00\x00\x001K\x04K\x03\x87tq")
    shape = content.index(b"K\n\x85")
    content = content[:shape] + b"K\x03\x85" + content[shape + 3 :]
    path.write_bytes(content)
    np.testing.assert_array_equal(_read(path)["w"], [4, 5, 6])


def test_something_else_than_a_state_dict_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ValueError, match="holds one list; give a plain state dict"):
        load_vgg("vgg19", path=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("picture.png", b"")
    with pytest.raises(ValueError, match="zip file, but not one of PyTorch: it holds no data.pkl"):
        load_vgg("vgg19", path=path)


def test_big_endian_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("weights/byteorder", "big")
    with pytest.raises(ValueError, match="big-endian"):
        load_vgg("vgg19", path=path)


def test_a_damaged_zip_is_noticed(tmp_path, vgg19_weights):
    path = tmp_path / "weights.pth"
    weight_files.write_pth_zip(path, weight_files.state_dict("vgg19", vgg19_weights))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"truncated or damaged.*Bad CRC-32"):
        load_vgg("vgg19", path=path)


def test_digits_in_the_name_are_compared_with_the_sha256(tmp_path, vgg19_weights):
    plain = tmp_path / "weights.pth"
    weight_files.write_pth_legacy(plain, weight_files.state_dict("vgg19", vgg19_weights))
    content = plain.read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    named = tmp_path / f"vgg19-{digits}.pth"
    plain.rename(named)
    _, variables = load_vgg("vgg19", path=named)
    np.testing.assert_array_equal(variables["params"]["conv1_1"]["kernel"], vgg19_weights[0][0])
    damaged = bytearray(content)
    damaged[-1] ^= 1  # in the classifier, which is not even read
    named.write_bytes(damaged)
    with pytest.raises(
        ValueError, match=rf"{named} has sha256 \w{{8}}, but its name says {digits}"
    ):
        load_vgg("vgg19", path=named)


@pytest.mark.parametrize("fortran", [False, True])
def test_pickled_numpy_arrays_are_read(tmp_path, fortran):
    array = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"a": {"b": array, "c": 1}}, protocol=3))
    with open_flax_pickle(path) as entries:
        assert set(entries) == {"a/b"}
        assert entries["a/b"].shape == (2, 3, 4)
        np.testing.assert_array_equal(entries["a/b"].read(), array)


@pytest.mark.parametrize("array", [np.arange(3), np.array([{}], object), np.ones(3, "c16")])
def test_pickled_arrays_of_other_kinds_are_refused(tmp_path, array):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"a": array}, protocol=3))
    with pytest.raises(ValueError, match=r"an array of '(i8|O8|c16)'"):
        load_vgg("vgg16", path=path)


@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_a_truncated_ckpt_is_refused(tmp_path, kept):
    path = tmp_path / "weights.ckpt"
    weight_files.write_lpips(path, "vgg16", vgg_oracle.random_weights("vgg16")[:2])
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_vgg("vgg16", path=path)


def test_a_ckpt_is_ported(tmp_path, vgg16_weights):
    path = tmp_path / "weights.ckpt"
    weight_files.write_lpips(path, "vgg16", vgg16_weights)
    _, variables = load_vgg("vgg16", path=path)
    for name, (kernel, bias) in zip(vgg_oracle.names("vgg16"), vgg16_weights, strict=True):
        np.testing.assert_array_equal(variables["params"][name]["kernel"], kernel)
        np.testing.assert_array_equal(variables["params"][name]["bias"], bias)
    with pytest.raises(ValueError, match="holds the weights of vgg16, not of vgg19"):
        load_vgg("vgg19", path=path)
