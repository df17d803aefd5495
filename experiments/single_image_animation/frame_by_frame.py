"""The baseline without a generator: style transfer of each held-out frame, on its own."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

import cxjax
from experiments import generators
from experiments.cli import make_folder, read_config
from experiments.single_image_animation import clips, results
from experiments.single_image_animation.config import Config
from experiments.style_transfer.config import Config as StyleConfig
from experiments.style_transfer.train import stylize


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameByFrameConfig:
    """Baseline: makes each held-out frame of a run by style transfer, on its own."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, whose clip, target and measures are taken."""
    out: Path | None = None
    """Folder for the results, new or empty; without it a new one beside the run's."""
    scales: tuple[float, ...] = StyleConfig.scales
    """Sizes optimised one after the other, as shares of the run's --size. Network and pooling are
    the run's too; the rest is the default of experiments.style_transfer, with the paper's layers
    and without the moments."""
    steps: tuple[int, ...] = StyleConfig.steps
    """Steps of gradient descent at each scale, for each frame."""


def run(config: FrameByFrameConfig) -> dict[str, Any]:
    """Makes the animation of the held-out frames, and measures it; returns the figures."""
    began = time.perf_counter()
    of_run: Config = read_config(Config, config.run)
    style = StyleConfig(
        size=of_run.size,
        network=of_run.network,
        weights=of_run.weights,
        pooling=of_run.pooling,
        scales=config.scales,
        steps=config.steps,
        # As the README's figures were made, and the paper has it.
        style_layers=("conv2_2", "conv3_2", "conv4_2"),
        moment_weight=0.0,
    )
    _, held_out, target = clips.read_pair(of_run)
    model, params = cxjax.load_vgg(
        style.network, path=style.weights, pooling=style.pooling, padding=style.padding
    )
    folder = make_folder(config.out, config.run.with_name(f"{config.run.name}-frame_by_frame"))
    print(f"results in {folder}")
    made = [stylize(style, model, params, frame, target) for frame in tqdm(held_out, unit="frame")]
    return results.finish(
        of_run,
        folder,
        features=generators.make_features(of_run, of_run.layers),
        held_out=held_out,
        result=np.stack(made),
        target=target,
        seconds=time.perf_counter() - began,
    )
