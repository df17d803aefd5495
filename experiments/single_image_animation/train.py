"""Single-image animation: a generator that moves one still as a clip moves."""

import json
import time
from typing import Any

import jax
import numpy as np

from cxjax.data import images, video
from cxjax.data.tfds import batches
from experiments import generators
from experiments.single_image_animation import clips, measures
from experiments.single_image_animation.config import Config
from experiments.single_image_animation.objective import make_loss

SHOWN = 4  # held-out frames in a sample grid


def run(config: Config) -> dict[str, Any]:
    """Trains, makes the animation of the held-out frames, and measures it; returns the figures."""
    began = time.perf_counter()
    generators.join_processes(config)
    generators.check_resumed(config)
    frames, held_out, target = clips.read_pair(config)
    model = generators.make_model(config)
    layers = tuple(dict.fromkeys((*config.target_layers, *config.source_layers)))
    features = generators.make_features(config, layers)
    loss_fn = make_loss(config, model, features, target)
    folder = generators.open_folder(config, config.default_out)
    if jax.process_index() == 0:
        print(f"results in {folder}")
        images.write_image(folder / "target.png", target)
    shown = held_out[:: max(1, len(held_out) // SHOWN)][:SHOWN]
    params = generators.train(
        config,
        folder=folder,
        model=model,
        loss_fn=loss_fn,
        batches=batches(
            frames,
            batch_size=config.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        hooks=[
            generators.sample_grid(model, shown, folder, every=config.sample_every, target=target)
        ],
    )
    trained = time.perf_counter() - began
    if jax.process_index():
        return {}
    make = jax.jit(model.apply)
    result = np.clip(np.stack([make(params, frame) for frame in held_out]), 0, 1)
    write_animation(config, folder, held_out, result)
    figures = judge(config, features, held_out, result, target)
    figures |= {"seconds": trained, "device": jax.devices()[0].device_kind}
    (folder / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(table({folder.name: figures}))
    return figures


def write_animation(config: Config, folder, held_out: np.ndarray, result: np.ndarray) -> None:
    """Writes source | result as a WebP and a strip of some frames."""
    pairs = np.stack([images.strip([a, b]) for a, b in zip(held_out, result, strict=True)])
    rate = config.frames_per_second
    video.write_video(folder / "animation.webp", pairs, frames_per_second=rate)
    video.write_video(folder / "result.webp", result, frames_per_second=rate, quality=100)
    some = range(0, len(pairs), max(1, len(pairs) // 6))
    rows = [images.strip([clip[i] for i in some]) for clip in (held_out, result)]
    images.write_image(folder / "strip.png", np.concatenate(rows))


def judge(
    config: Config,
    features: generators.Features,
    held_out: np.ndarray,
    result: np.ndarray,
    target: np.ndarray,
) -> dict[str, Any]:
    """The figures of a result, and the source's own for comparison."""
    motion = measures.flow(held_out)
    look = measures.make_look(features, target)
    boxes = {name: getattr(config, name) for name in ("head", "brow", "mouth")}
    boxes = {name: box for name, box in boxes.items() if box}
    return {
        "motion": measures.motion_carried(motion, measures.flow(result), boxes),
        "flicker": measures.flicker(result, held_out, motion),
        "look": look(result),
        "source": {
            "flicker": measures.flicker(held_out, held_out, motion),
            "look": look(held_out),
        },
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Figures as a Markdown table, a row per run, under the source's own."""
    first = next(iter(results.values()))
    names = [f"motion, {name}" for name in first["motion"]]
    names += ["CX to target", "Gram to target", "flicker"]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    rows = {"source": first["source"] | {"motion": dict.fromkeys(first["motion"], 1.0)}, **results}
    for name, row in rows.items():
        values = [*row["motion"].values(), *row["look"].values(), row["flicker"]]
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return "\n".join(lines)
