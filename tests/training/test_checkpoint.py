"""Checkpoints: what is saved comes back, and damage, kills and a full disk cost no sound one."""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cxjax.training import devices, records
from cxjax.training.checkpoint import Checkpoints, ConfigMismatch, load_state, read_config

ROOT = Path(__file__).parents[2]

# Where one array cannot be read, orbax drops the loop in which the others still arrive.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = {"width": 4, "optimizer": {"name": "adam", "rate": 0.1}, "sizes": (1, 2), "steps": 9}


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    ema: dict | None = None


def state_of(step, width=4):
    """A state whose every value depends on the step."""
    draw = jax.random.normal(jax.random.key(step), (300, width))
    params = {"conv/1": {"w": draw, "b": draw[0].astype(jnp.bfloat16)}, "empty": jnp.zeros((0, 2))}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(1)))
    opt_state = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(step, leaf.dtype), optimizer.init(params)
    )
    key = jax.random.split(jax.random.key(step), 2)
    return State(step=jnp.int32(step), params=params, opt_state=opt_state, key=key)


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).digest() for f in files}
    return digests, sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def opened(folder, **options):
    return Checkpoints(folder, config=CONFIG, **options)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Three checkpoints, which no test may change."""
    folder = tmp_path_factory.mktemp("run")
    with opened(folder) as checkpoints:
        for step in (1, 2, 3):
            assert checkpoints.save(step, state_of(step), data={"position": step})
    return folder


@pytest.fixture
def folder(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "copy")
    return tmp_path / "copy"


def largest_file(folder, step):
    files = [path for path in (folder / str(step) / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_what_was_saved_comes_back(folder):
    with opened(folder) as checkpoints:
        step, state, data = checkpoints.restore(state_of(0))
    assert (step, data) == (3, {"position": 3})
    assert_equal(state, state_of(3))
    assert state.key.dtype == jax.random.key(0).dtype
    assert state.opt_state[1][0].mu["conv/1"]["b"].dtype == jnp.bfloat16
    leaf = state.params["conv/1"]["w"]
    assert np.abs(np.asarray(leaf - state_of(2).params["conv/1"]["w"])).max() > 0.1


def test_shapes_without_arrays_are_enough_to_restore(folder):
    with opened(folder) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(lambda: state_of(0)))
    assert_equal(restored.state, state_of(3))


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with opened(tmp_path / "deep" / "run") as checkpoints:
        assert checkpoints.restore(state_of(0)) is None
        assert checkpoints.folder == tmp_path / "deep" / "run"


def test_arrays_may_be_donated_while_they_are_saved(tmp_path):
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"w": jnp.zeros((512, 512)), "host": np.zeros(3)}
    with opened(tmp_path, keep=4) as checkpoints:
        for step in range(1, 5):
            state["w"] = advance(state["w"])
            state["host"] += 1
            checkpoints.save(step, state)
        state = {"w": advance(state["w"]), "host": state["host"] + 1}
        for step in (4, 3):
            restored = checkpoints.restore(state)
            assert restored.step == step
            np.testing.assert_array_equal(restored.state["w"], np.full((512, 512), step))
            np.testing.assert_array_equal(restored.state["host"], np.full(3, step))
            checkpoints.wait()
            shutil.rmtree(tmp_path / str(step))


def test_a_step_is_saved_once_and_never_below_the_newest(folder):
    with opened(folder) as checkpoints:
        before = content(folder)
        assert not checkpoints.save(3, state_of(3), wait=True)
        assert not checkpoints.save(2, state_of(0), wait=True)
        with pytest.raises(ValueError, match=r"holds step 3, later than step 0: restore"):
            checkpoints.save(0, state_of(0))
        assert content(folder) == before
        assert checkpoints.save(4, state_of(4), wait=True)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]


# Damage: each returns what the log must say.


def flip_a_byte_of_the_data(folder, step):
    path = largest_file(folder, step)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    return "wrong CRC32|unreadable"


def truncate_the_data(folder, step):
    path = largest_file(folder, step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "unreadable"


def lose_the_data_file(folder, step):
    largest_file(folder, step).unlink()
    return "unreadable"


def lose_the_state(folder, step):
    shutil.rmtree(folder / str(step) / "state")
    return "unreadable"


def lose_the_record(folder, step):
    shutil.rmtree(folder / str(step) / "meta")
    return "no readable record: FileNotFoundError"


def change_a_shape_in_the_record(folder, step):
    path = folder / str(step) / "meta" / "metadata"
    path.write_text(path.read_text().replace("(300, 4)", "(4, 4)"))
    return "record has been changed"


def truncate_the_record(folder, step):
    path = folder / str(step) / "meta" / "metadata"
    path.write_bytes(path.read_bytes()[:-1])
    return "no readable record: JSONDecodeError"


def empty_the_folder(folder, step):
    shutil.rmtree(folder / str(step))
    (folder / str(step)).mkdir()
    return "no readable record"


def swap_the_arrays_of_another_step(folder, step):
    """Sound files with the values of another step: nothing but the CRC32 can see it."""
    shutil.rmtree(folder / str(step) / "state")
    shutil.copytree(folder / "1" / "state", folder / str(step) / "state")
    return "other values than were saved: wrong CRC32"


DAMAGES = [
    flip_a_byte_of_the_data,
    truncate_the_data,
    lose_the_data_file,
    lose_the_state,
    lose_the_record,
    change_a_shape_in_the_record,
    truncate_the_record,
    empty_the_folder,
    swap_the_arrays_of_another_step,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(folder, caplog, damage):
    reason = damage(folder, 3)
    damaged = content(folder / "3")
    with opened(folder) as checkpoints:
        with caplog.at_level(logging.WARNING, "cxjax"):
            step, state, data = checkpoints.restore(state_of(0))
        assert (step, data) == (2, {"position": 2})
        assert_equal(state, state_of(2))
        (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("cxjax")]
        assert "step 3" in message
        assert any(part in message for part in reason.split("|")), message
        assert content(folder / "unsound" / "3") == damaged  # all of it, and nothing deleted
        assert not (folder / "3").exists()
        assert checkpoints.save(3, state_of(3), data={"position": 3}, wait=True)
        damage(folder, 3)
        assert checkpoints.restore(state_of(0)).step == 2
        assert sorted(path.name for path in (folder / "unsound").iterdir()) == ["3", "3-1"]
        assert checkpoints.save(3, state_of(3), wait=True)
    with opened(folder) as checkpoints:
        assert checkpoints.restore(state_of(0)).step == 3


def test_every_flipped_byte_is_harmless_or_noticed(folder):
    """A byte in each of many places of each file: never other values."""
    shutil.rmtree(folder / "1")
    shutil.rmtree(folder / "2")
    noticed = 0
    paths = [path for path in (folder / "3").rglob("*") if path.is_file()]
    for path in paths:
        sound = path.read_bytes()
        for place in {0, len(sound) // 3, len(sound) // 2, len(sound) - 1}:
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
            try:
                restored = load_state(folder)
            except ValueError as error:
                assert "is sound, and none was moved" in str(error)  # noqa: PT017
                noticed += 1
            else:
                saved = state_of(3).params["conv/1"]["w"]
                np.testing.assert_array_equal(restored.state["conv/1"]["w"], saved)
        path.write_bytes(sound)
    assert noticed >= 4


@pytest.mark.parametrize("change", [{"dtype": "int32"}, {"shape": [4, 300]}])
def test_the_same_bytes_in_another_form_are_noticed(folder, change):
    name = "params/conv/1/w"
    entry = records.read_record(folder / "3")["arrays"][name]
    np.testing.assert_array_equal(
        records.read_arrays(folder / "3", {name: entry})[name], state_of(3).params["conv/1"]["w"]
    )
    with pytest.raises(records.UnsoundError, match=r"w is float32 \(300, 4\), which its record"):
        records.read_arrays(folder / "3", {name: entry | change})


def test_no_sound_checkpoint_is_an_error_again_and_again(folder):
    for step, damage in ((1, truncate_the_data), (2, lose_the_record), (3, empty_the_folder)):
        damage(folder, step)
    before = content(folder)
    with opened(folder) as checkpoints:
        for _ in range(2):  # a second run must not find an empty folder and start from zero
            with pytest.raises(ValueError, match=r"(?s)no checkpoint in .* step 3: .*step 1: unr"):
                checkpoints.restore(state_of(0))
            assert content(folder) == before


def test_a_reader_without_permission_is_no_damage(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "denied", str(path))

    with opened(folder) as checkpoints:
        before = content(folder)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", refuse)
            with pytest.raises(PermissionError):
                checkpoints.restore(state_of(0))
        assert content(folder) == before


def test_another_config_is_refused_field_by_field(folder):
    before = content(folder)
    config = CONFIG | {"optimizer": {"name": "adam", "rate": 0.2}, "steps": 10, "new": True}
    with pytest.raises(ConfigMismatch) as caught:
        Checkpoints(folder, config=config)
    for part in (
        "optimizer.rate: given 0.2, saved 0.1",
        "steps: given 10, saved 9",
        "new: given True, saved nothing",
        str(folder),
    ):
        assert part in str(caught.value)
    for same in ("name", "width", "sizes"):
        assert same not in str(caught.value).replace(str(folder), "")
    with pytest.raises(ConfigMismatch, match="rate") as caught:
        Checkpoints(folder, config=config, ignore=["new", "steps"])
    assert "steps" not in str(caught.value)
    assert content(folder) == before
    with Checkpoints(folder, config=config, ignore=["new", "steps", "optimizer"]) as checkpoints:
        assert checkpoints.restore(state_of(0)).step == 3
        checkpoints.save(4, state_of(4))
    assert read_config(folder) == json.loads(json.dumps(config))


def test_the_config_of_an_older_checkpoint_is_compared_if_the_newest_is_damaged(folder):
    lose_the_record(folder, 3)
    with pytest.raises(ConfigMismatch, match="width: given 5, saved 4"):
        Checkpoints(folder, config=CONFIG | {"width": 5})
    assert read_config(folder)["width"] == 4


def without_a_moment(state):
    return state.replace(opt_state=state.opt_state[:1])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda s: state_of(0, width=5), r"params/conv/1/w: given 'float32 \(300, 5\)', saved"),
        (
            lambda s: jax.tree.map(lambda x: x.astype(jnp.float16) if x.ndim == 2 else x, s),
            r"params/conv/1/w: given 'float16 \(300, 4\)', saved 'float32 \(300, 4\)'",
        ),
        (without_a_moment, r"opt_state/1/0/mu/conv/1/w: given nothing, saved 'float32 \(300, 4\)'"),
        (lambda s: s.replace(ema=s.params), r"ema/conv/1/w: given 'float32 .*', saved nothing"),
        (
            lambda s: s.replace(key=jax.random.split(jax.random.key(0, impl="rbg"), 2)),
            r"key: given 'key<rbg> \(2,\)', saved 'key<fry> \(2,\)'",
        ),
    ],
    ids=["shape", "dtype", "missing", "more", "key"],
)
def test_another_model_is_refused_and_moves_nothing(folder, change, difference):
    with opened(folder) as checkpoints:
        before = content(folder)
        with pytest.raises(ValueError, match=difference):
            checkpoints.restore(change(state_of(0)))
        assert content(folder) == before
        assert checkpoints.restore(state_of(0)).step == 3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, value, dtype):
    good = {
        "params": {"w": jnp.ones((2, 2), dtype), "n": jnp.int32(1)},
        "best": jnp.float32(np.inf),
    }
    bad = good | {"params": good["params"] | {"w": good["params"]["w"].at[1, 0].set(value)}}
    with opened(tmp_path) as checkpoints:
        assert checkpoints.save(1, good, wait=True)
        with pytest.raises(FloatingPointError, match=r"params \(1, the first params/w\)"):
            checkpoints.save(2, bad, wait=True)
        with pytest.raises(FloatingPointError, match="best"):
            checkpoints.save(2, good | {"best": jnp.float32(np.nan)}, wait=True)
        assert checkpoints.restore(good).step == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8), (8, 4)])
@pytest.mark.parametrize("split", [False, True], ids=["replicated", "split"])
def test_devices_may_change(tmp_path, saved_on, restored_on, split):
    def on(number):
        mesh = devices.make_mesh(jax.devices()[:number])
        spread = NamedSharding(mesh, PartitionSpec("data" if split else None))
        values = {
            "w": jnp.arange(16.0).reshape(8, 2),
            "key": jax.random.split(jax.random.key(1), 8),
        }
        return jax.device_put(values, spread) | {"n": devices.replicate(jnp.int32(7), mesh)}

    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, on(saved_on))
        like = on(restored_on)
        state = checkpoints.restore(jax.tree.map(jnp.zeros_like, like) | {"key": like["key"]}).state
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        from_shapes = checkpoints.restore(shapes).state
    for restored in (state, from_shapes):
        assert_equal(restored, like)
        assert len(restored["n"].sharding.device_set) == restored_on
    assert from_shapes["w"].sharding == like["w"].sharding
    assert from_shapes["key"].sharding.is_equivalent_to(like["key"].sharding, 1)


def test_trained_parameters_are_read_alone_and_nothing_is_changed(folder, caplog):
    swap_the_arrays_of_another_step(folder, 3)
    before = content(folder)
    with caplog.at_level(logging.WARNING, "cxjax"):
        step, params, data = load_state(folder)
    assert "step 3" in caplog.text
    assert (step, data) == (2, {"position": 2})
    assert_equal(params, jax.tree.map(np.asarray, state_of(2).params))
    like = jax.eval_shape(lambda: state_of(0).params)
    assert_equal(load_state(folder, like, step=1).state, state_of(1).params)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7 in .*\[3, 2, 1\]"):
        load_state(folder, step=7)
    with pytest.raises(ValueError, match="wrong CRC32"):
        load_state(folder, step=3)
    with pytest.raises(ValueError, match=r"conv/1/w: given 'float32 \(300, 5\)', saved"):
        load_state(folder, jax.eval_shape(lambda: state_of(0, width=5).params))
    assert content(folder) == before
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        load_state(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_config(folder / "nowhere")


def test_the_average_is_what_is_applied(tmp_path):
    state = {"params": jnp.ones(2), "ema": {"w": jnp.full(2, 3.0)}}
    with opened(tmp_path / "a") as checkpoints:
        checkpoints.save(1, state)
    np.testing.assert_array_equal(load_state(tmp_path / "a").state["w"], [3, 3])
    with opened(tmp_path / "b") as checkpoints:
        checkpoints.save(1, {"params": state["params"]})
        checkpoints.save(2, {"weights": state["params"]})
    np.testing.assert_array_equal(load_state(tmp_path / "b", step=1).state, [1, 1])
    with pytest.raises(ValueError, match=r"neither ema nor params: \['weights'\]"):
        load_state(tmp_path / "b")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: Checkpoints(f, config={}, keep=0), "keep must be a positive integer; got 0"),
        (lambda f: Checkpoints("gs://bucket/run", config={}), "mounted file system; got gs://"),
        (lambda f: Checkpoints(f, config={"out": Path("a")}), "config must be what JSON can hold"),
        (lambda f: Checkpoints(f, config={"rate": np.nan}), "config must be .*{'rate': nan}"),
        (lambda f: Checkpoints(f, config={"a": {"clip": np.inf}}), "config must be .*JSON.*inf"),
        (lambda f: opened(f).save(1, {"w": jnp.ones(1)}, data=[-np.inf]), "data must be.*-inf"),
        (
            lambda f: opened(f).save(1, {"w": jnp.ones(1)}, data={"a": {1}}),
            "data must be what JSON",
        ),
        (lambda f: opened(f).save(1, {"w": 1.0}), "arrays only; 'w' is 1.0"),
        (lambda f: opened(f).save(1, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}), "'a/b'"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    assert not list(tmp_path.glob("1*"))


FULL_DISK = """
import os, resource, signal, sys
import jax.numpy as jnp, numpy as np
from cxjax.training.checkpoint import Checkpoints
folder, mode = sys.argv[1:]
noise = lambda size: {"w": jnp.asarray(np.random.default_rng(0).random(size, np.float32))}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Checkpoints(folder, config={}, keep=1) as checkpoints:
    checkpoints.save(1, noise(100_000), wait=True)
    if mode == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    checkpoints.save(2, noise(3_000_000))
    try:
        checkpoints.save(3, noise(100_000)) if mode == "next" else checkpoints.wait()
    except OSError as error:
        print(error.errno, error)
    print(sorted(os.listdir(folder)), checkpoints.restore(noise(100_000)).step)
    print(checkpoints.save(4, noise(90_000), wait=True), sorted(os.listdir(folder)))
    checkpoints.save(5, noise(3_000_000))
"""


@pytest.fixture(params=["mount", "next", "limit"])
def full(request, tmp_path):
    """A folder on a disk of 4 MB, or files of at most 1 MB where none can be mounted."""
    if request.param == "limit":
        yield tmp_path, "limit"
        return
    mounted = shutil.which("mount") and os.getuid() == 0
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if not mounted or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk; the limit on file sizes is tested")
    yield tmp_path, request.param
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_costs_no_older_checkpoint(full):
    folder, mode = full
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), mode],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    number = errno.EFBIG if mode == "limit" else errno.ENOSPC
    said, left, after = run.stdout.splitlines()
    assert said.startswith(f"{number} [Errno {number}] {os.strerror(number)}: step 2 could not be")
    assert (
        f"saved in {folder}; the older checkpoints there are intact, the newest of step 1" in said
    )
    assert left == "['1'] 1"  # intact though keep=1, and nothing half written fills the disk
    assert after == "True ['4']"
    assert run.returncode == 1  # the last failure comes out of the with
    assert "could not be saved" in run.stderr.splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["4"]


FAILURES = [
    (TypeError("not an array"), TypeError, "not an array"),
    (ValueError("a name is taken"), ValueError, "a name is taken"),
    (
        ValueError("OUT_OF_RANGE [os_error_code='28']"),
        OSError,
        r"\[Errno 28\] No space left.*step 4",
    ),
    (PermissionError(errno.EACCES, "denied"), OSError, r"\[Errno 13\] Permission denied: step 4"),
    (OSError("of no number"), OSError, r"\[Errno 5\] Input/output error: step 4.*of no number"),
]


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
@pytest.mark.parametrize(("error", "kind", "message"), FAILURES)
def test_only_what_the_system_refuses_is_an_io_error(
    folder, monkeypatch, method, error, kind, message
):
    def fail(*_, **__):
        raise error

    unfinished = folder / "4.orbax-checkpoint-tmp"
    with opened(folder) as checkpoints:
        before = content(folder)
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints._manager, method, fail)
            if method == "wait_until_finished":
                checkpoints._saving = 4  # as if its save were in progress
            unfinished.mkdir()
            with pytest.raises(kind, match=message) as caught:
                checkpoints.save(4, state_of(4))
        assert (caught.value is error) == (kind is not OSError)
        assert content(folder) == before  # and nothing half written
        assert checkpoints.save(4, state_of(4), wait=True)
        assert checkpoints.restore(state_of(0)).step == 4


@pytest.mark.parametrize(("error", "kind", "message"), FAILURES[::2])
def test_an_error_is_not_hidden_by_one_in_the_last_save(
    tmp_path, monkeypatch, caplog, error, kind, message
):
    def fail():
        raise error

    def loop():
        with opened(tmp_path) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
            monkeypatch.setattr(checkpoints._manager, "close", lambda: None)
            raise KeyError("the loop's own")

    with pytest.raises(KeyError, match="the loop's own"):
        loop()
    assert str(error) in caplog.text


def test_what_a_killed_save_left_is_ignored_and_cleaned(folder):
    for step in (4, 5):
        shutil.copytree(folder / "3", folder / f"{step}.orbax-checkpoint-tmp")
    with opened(folder) as checkpoints:
        assert checkpoints.restore(state_of(0)).step == 3
        assert checkpoints.save(5, state_of(5), wait=True)
        assert checkpoints.restore(state_of(0)).step == 5
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "5"]


TWO_PROCESSES = """
import sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from cxjax.training import devices, records
from cxjax.training.checkpoint import Checkpoints
port, folder, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
devices.initialize_processes(
    coordinator=f"localhost:{port}", process_count=2, process_index=index
)
mesh = devices.make_mesh()
def state(step):
    make = lambda: {"w": jnp.full((3, 2), step), "key": jax.random.key(step)}
    return jax.jit(make, out_shardings=NamedSharding(mesh, PartitionSpec()))()
with Checkpoints(folder, config={}) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), data={"position": step})
    checkpoints.wait()
    whole = records.read_arrays
    if index == 1:  # alone cannot read it
        def read_arrays(path, entries):
            if path.name == "3":
                raise records.UnsoundError("unreadable")
            return whole(path, entries)
        records.read_arrays = read_arrays
    step, restored, data = checkpoints.restore(state(0))
    records.read_arrays = whole
    own = jax.tree.map(lambda x: x.addressable_data(0), restored)
    assert (step, data) == (2, {"position": 2})
    assert restored["w"].sharding.num_devices == 4 and (own["w"] == 2).all()
    assert (jax.random.key_data(own["key"]) == jax.random.key_data(jax.random.key(2))).all()
    assert checkpoints.save(3, restored, wait=True)
    try:
        checkpoints.save(4, restored, data=index)
    except ValueError as error:
        assert "the same in each process" in str(error)
        print("done")
"""

# What goes wrong in one process must not let the other wait for ever.
ONE_FAILS = """
import errno, resource, signal, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from cxjax.training import devices
from cxjax.training.checkpoint import Checkpoints, ConfigMismatch
port, folder, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 1)
devices.initialize_processes(
    coordinator=f"localhost:{port}", process_count=2, process_index=index
)
mesh = devices.make_mesh()
def state(value=1.0, size=300_000):
    own = jax.device_put(np.random.default_rng(0).random(size, np.float32) + np.float32(value))
    whole = NamedSharding(mesh, PartitionSpec())
    return {"w": jax.make_array_from_single_device_arrays((size,), whole, [own])}
def fails(kind, text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        assert text in str(error), error
        return error
    raise AssertionError(f"no {kind}")
with Checkpoints(folder, config={}) as checkpoints:
    assert checkpoints.save(1, state(), wait=True)
    broken = state(np.nan if index == 1 else 1.0)
    error = fails(FloatingPointError, "arrays with NaN", checkpoints.save, 2, broken)
    assert str(error).startswith("process 1 failed: FloatingPointError") == (index == 0)
    fails(ValueError, "what JSON can hold", checkpoints.save, 2, state(), data={1} if index else 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if index == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    assert checkpoints.save(2, state())
    error = fails(OSError, "step 2 could not be saved", checkpoints.wait)
    assert error.errno == errno.EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.save(2, state(), wait=True)
    assert checkpoints.restore(state()).step == 2
    small = lambda: state(size=3)
    error = fails(ValueError, "does not fit", checkpoints.restore, small() if index else state())
fails(ValueError, "given 1, saved nothing", Checkpoints, folder, config={"a": 1} if index else {})
with Checkpoints(f"{folder}/of-{index}", config={}) as checkpoints:
    if index == 0:
        checkpoints.folder.joinpath("7").mkdir()
    fails(ValueError, "the processes must share", checkpoints.restore, state())
print("done")
"""


def run_two(script, folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", script, port, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    runs = [subprocess.Popen([*command, str(index)], **pipes) for index in range(2)]
    try:
        for run in runs:
            out, errors = run.communicate(timeout=60)
            assert "done" in out, errors
    finally:
        for run in runs:
            run.kill()


def test_two_processes_save_and_restore_together(tmp_path):
    run_two(TWO_PROCESSES, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "unsound"]


def test_where_one_process_fails_the_other_does_not_wait(tmp_path):
    run_two(ONE_FAILS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "of-0"]


def test_killed_at_random_it_goes_on_from_the_last_save():
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill.py"), "3"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["kills"] == 3
