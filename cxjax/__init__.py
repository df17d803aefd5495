"""Losses for images that are not aligned: the Contextual Loss and its family, in JAX."""

import importlib.metadata

from cxjax import points as points
from cxjax.features.weights import load_vgg as load_vgg
from cxjax.losses.baselines import gram_loss as gram_loss
from cxjax.losses.baselines import l1_loss as l1_loss
from cxjax.losses.baselines import l2_loss as l2_loss
from cxjax.losses.baselines import perceptual_loss as perceptual_loss
from cxjax.losses.baselines import total_variation as total_variation
from cxjax.losses.bilateral import contextual_bilateral_loss as contextual_bilateral_loss
from cxjax.losses.contextual import contextual_loss as contextual_loss
from cxjax.losses.contextual import contextual_matches as contextual_matches
from cxjax.losses.contextual import contextual_similarity as contextual_similarity
from cxjax.losses.transport import relaxed_earth_mover_loss as relaxed_earth_mover_loss
from cxjax.losses.transport import sliced_wasserstein_loss as sliced_wasserstein_loss
from cxjax.training.state import TrainState as TrainState
from cxjax.training.step import make_train_step as make_train_step

try:
    __version__ = importlib.metadata.version("cxjax")
except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "unknown"
