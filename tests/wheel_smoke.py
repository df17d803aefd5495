"""Tries an installed cxjax, as a user has it: `python wheel_smoke.py`, outside the repository.

`tests/wheel_smoke.py WHEEL` makes a new virtual environment in a folder of its own, installs
`WHEEL[weights]` there and runs this file in it (minutes, and packages are downloaded).
"""

import subprocess
import sys
import tempfile
import venv
from importlib.resources import files
from pathlib import Path


def install_and_try(wheel: Path) -> int:
    """Installs the wheel into a new virtual environment, and tries it; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin/python")
        for command in (
            ["-m", "pip", "install", "--quiet", f"{wheel.resolve()}[weights]"],
            ["-m", "pip", "check"],
            ["-I", str(Path(__file__).resolve())],  # isolated: neither this folder nor PYTHONPATH
        ):
            done = subprocess.run([python, *command], cwd=folder, check=False)
            if done.returncode:
                return done.returncode
    return 0


def try_it() -> None:
    """Loss and gradient, features, and one train step."""
    import jax
    import jax.numpy as jnp
    import optax

    import cxjax
    from cxjax.training import step

    where = Path(str(files(cxjax)))
    assert Path(sys.prefix) in where.parents, f"cxjax is {where}, not the installed one"
    assert (where / "py.typed").is_file()
    print(f"cxjax {cxjax.__version__} in {where}")

    keys = jax.random.split(jax.random.key(0), 4)
    x, y = jax.random.normal(keys[0], (50, 8)), jax.random.normal(keys[1], (40, 8))
    loss, gradient = jax.value_and_grad(cxjax.contextual_loss)(x, y)
    assert jnp.isfinite(loss)
    assert loss > 0
    assert jnp.isfinite(gradient).all()
    assert jnp.abs(gradient).max() > 0
    print(f"contextual loss {loss:.4f}, largest gradient {jnp.abs(gradient).max():.2e}")

    model, params = cxjax.load_vgg("vgg16")
    images = jax.random.uniform(keys[2], (2, 32, 32, 3))

    def features(pictures):
        maps = model.apply(params, pictures, layers=("conv2_2",))["conv2_2"]
        return maps.reshape(2, -1, 128)

    wanted = features(images)
    assert jnp.isfinite(wanted).all()
    assert jnp.std(wanted) > 0
    print(f"VGG16 conv2_2 {wanted.shape}, standard deviation {jnp.std(wanted):.3f}")

    def loss_fn(pixels, batch, key):
        made = features(pixels)
        return jax.vmap(cxjax.contextual_loss)(made, batch).mean(), {}

    optimizer = optax.adam(0.02)
    state = cxjax.TrainState.create(
        params=jax.random.uniform(keys[3], images.shape), optimizer=optimizer
    )
    train_step = jax.jit(step.make_train_step(loss_fn, optimizer))
    before = state.params
    state, metrics = train_step(state, wanted, keys[0])
    assert int(state.step) == 1
    assert jnp.isfinite(metrics["loss"])
    assert jnp.abs(state.params - before).max() > 0
    _, after = train_step(state, wanted, keys[0])
    assert after["loss"] < metrics["loss"]
    print(f"a train step: loss {metrics['loss']:.4f}, then {after['loss']:.4f}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(f"give one wheel; got {', '.join(sys.argv[1:])}")
    if len(sys.argv) > 1:
        sys.exit(install_and_try(Path(sys.argv[1])))
    try_it()
