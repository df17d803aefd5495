"""Draws the matches between two pictures: the paper's Fig. 3, with nearest neighbours below."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import cxjax
from cxjax.data import images
from cxjax.data.matches import draw_matches
from experiments.cli import check_folder, make_folder, to_json
from experiments.correspondences.config import Config
from experiments.correspondences.matching import make_features, match, used
from experiments.correspondences.pictures import portrait

_GAP = 12


def run(config: Config) -> dict[str, Any]:
    """Matches two pictures, writes the picture of it and figures, and returns the figures."""
    check_folder(config.out)
    x = portrait(config.x, config.x_crop, "astronaut")
    y = portrait(config.y, config.y_crop, "grace_hopper")
    x, y = (images.resize(picture, longest_side=config.size) for picture in (x, y))
    features = make_features(config)
    x_points, y_points = features(x), features(y)
    _, similarity = cxjax.contextual_matches(
        x_points.points, y_points.points, bandwidth=config.bandwidth
    )
    found = match(
        x_points, y_points, bandwidths=[config.bandwidth], spatial_weights=[], size=config.size
    )
    names = [
        path.stem if path else built_in
        for path, built_in in ((config.x, "astronaut"), (config.y, "grace_hopper"))
    ]
    out = make_folder(config.out, Path("out/correspondences") / "-".join(names))
    (out / "config.json").write_text(json.dumps(to_json(config), indent=1) + "\n")
    scale = config.drawn_size / config.size
    large = [images.resize(picture, longest_side=config.drawn_size) for picture in (x, y)]
    rows = []
    for name in sorted(found):  # CX above nearest neighbours, of the same targets
        drawn = draw_matches(
            *large,
            x_positions=np.asarray(x_points.positions) * scale,
            y_positions=np.asarray(y_points.positions) * scale,
            index=found[name],
            similarity=np.asarray(similarity),
            strongest=config.strongest,
            apart=config.apart * config.drawn_size,
            gap=_GAP,
            line_width=config.drawn_size / 256,
        )
        rows.append(drawn)
    white = np.ones((_GAP, rows[0].shape[1], 3), np.float32)
    images.write_image(out / "matches.png", np.concatenate([rows[0], white, rows[1]]))
    figures = {
        "similarity": float(similarity.mean()),
        "same source by both, share of the targets": float(np.equal(*found.values()).mean()),
        "points": [len(x_points.points), len(y_points.points)],
        "sources used, as a share of the targets": {name: used(i) for name, i in found.items()},
    }
    (out / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{out}/matches.png: CX above, nearest neighbours below\n{json.dumps(figures, indent=1)}")
    return figures
