"""Ported with the style transfer."""


class FrameByFrameConfig:
    """Baseline."""


def run(config):
    """Not here yet."""
