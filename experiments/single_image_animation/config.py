"""Settings of the single-image animation, and its named variants."""

import dataclasses
from pathlib import Path
from typing import Literal

from cxjax.data.images import Box
from cxjax.data.video import check_selection
from cxjax.features.vgg import check_known_layers
from experiments.common.generators import GeneratorConfig
from experiments.common.runs import check_numbers

Loss = Literal["contextual", "gram"]

# Of the first command: cut so that both heads are framed alike, and where the clip's moves.
CROPS: dict[str, Box] = {"carphone": (34, 2, 144, 112), "MonaLisa": (70, 10, 270, 210)}
BOXES = {
    "head": (0.02, 0.13, 0.62, 0.88),
    "brow": (0.1, 0.3, 0.55, 0.5),
    "mouth": (0.22, 0.6, 0.48, 0.86),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratorConfig):
    source: str = "carphone"
    """Clip that drives: a video file, a folder of frames, a set by name, or `drawn`."""
    split: str = "train"
    """Part of a set by name to take, or of a folder the folder of that name in it."""
    start: int = 0
    """First frame of the clip to take, counted from 0."""
    stop: int | None = None
    """Frame of the clip to stop before, counted likewise; None is its end."""
    every: int = 1
    """Take one frame of the clip out of so many."""
    source_crop: Box | None = None
    """Left, top, right, bottom of the part of the clip to use, in pixels; scaled to --size. Without
    it the middle square; of the built-in clip the man."""
    held_out: int = 24
    """Number of frames, at least 3, the last of those taken, that are not trained on, and on which
    all is measured."""
    target: str = "MonaLisa"
    """Picture to be moved: a file, the id of a painting of the set `paintings`, a portrait that an
    installed package carries (`astronaut`, `grace_hopper`), or `drawn`."""
    target_crop: Box | None = None
    """The same of the target, in pixels; without it the middle square, of the built-in painting and
    portraits head and shoulders. Alike framing of the two helps."""
    head: tuple[float, float, float, float] | None = None
    """Box of the head in the first held-out frame, for its motion to be measured: left, top, right,
    bottom as shares of the frame. The built-in clip's are known."""
    brow: tuple[float, float, float, float] | None = None
    """Box of brow and eyes, likewise."""
    mouth: tuple[float, float, float, float] | None = None
    """Box of the mouth, likewise."""

    loss: Loss = "contextual"
    """The Contextual Loss, or the Gram loss with aligned features of the source (a baseline)."""
    target_layers: tuple[str, ...] = ("conv3_2", "conv4_2")
    """Layers compared with the target's."""
    source_layers: tuple[str, ...] = ("conv4_2",)
    """Layers compared with the source frame's."""
    bandwidth: float = 0.5
    """h of the Contextual Loss, above 0; the smaller, the more the nearest alone counts."""
    source_weight: float = 1.0
    """Weight of the loss to the source, at least 0; that to the target has 1."""
    frames_per_second: float | None = None
    """Frames per second of the animation that is written; without it the video's own over --every,
    10 where there is no video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known_layers((*self.target_layers, *self.source_layers), self.network)
        if not self.target_layers:
            raise ValueError("--target-layers needs at least one layer")
        check_numbers(self, "bandwidth", "frames_per_second", above=True)
        check_numbers(self, "source_weight")
        if self.held_out < 3:
            raise ValueError(f"--held-out must be at least 3 frames; got {self.held_out}")
        check_selection(self.start, self.stop, self.every)
        for name in ("head", "brow", "mouth"):
            box = getattr(self, name)
            if box and not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise ValueError(
                    f"--{name} is left, top, right, bottom as shares of the frame; got {box}"
                )

    @property
    def crops(self) -> tuple[Box | None, Box | None]:
        """The parts of the clip and of the target to use; without one the middle square."""
        return (
            self.source_crop or CROPS.get(self.source),
            self.target_crop or CROPS.get(self.target),
        )

    @property
    def boxes(self) -> dict[str, tuple[float, float, float, float]]:
        """Where motion is measured beside the whole frame."""
        known = BOXES if self.source in CROPS and self.crops[0] == CROPS[self.source] else {}
        given = {name: getattr(self, name) for name in BOXES}
        return known | {name: box for name, box in given.items() if box}

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        names = [Path(self.source).stem, Path(self.target).stem, self.loss]
        return Path("out/single_image_animation") / "-".join(names)


VARIANTS = {
    "default": Config(),
    "paper": Config(
        # The authors' release (config.py of roimehrez/contextualLoss): VGG19, 256 px, batch 1, Adam
        # at 1e-4, ten epochs; 96 training frames make 960 steps.
        network="vgg19",
        size=256,
        small=False,
        batch_size=1,
        steps=960,
        learning_rate=1e-4,
        schedule="constant",
    ),
    "smoke": Config(
        source="drawn",
        target="drawn",
        size=32,
        held_out=4,
        steps=4,
        target_layers=("conv1_2", "conv2_1"),
        source_layers=("conv2_1",),
        save_every=2,
        log_every=1,
        sample_every=2,
    ),
}
