"""Oriented boxes: four corners in label files and COCO results, [cx, cy, w, h, θ] everywhere else.

    boxes_N5 = rotated_from_corners(corners_N42)      # the smallest rectangle around each four corners
    edgekit.boxes.corners(boxes_N5)                   # and back: [N, 4, 2]

Pixels; w >= h; θ is the direction of the long side in radians in [-π/2, π/2), clockwise positive in image axes (y
down). Angles are only meaningful in pixels: scale normalised corners first.
"""

from __future__ import annotations

import numpy as np

_PAIRS = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)])


def rotated_from_corners(corners_N42: np.ndarray) -> np.ndarray:
    """[N, 5] the rectangle of least area around each four corners.

    That rectangle shares a side's direction with the corners' convex hull, so the six lines through two corners are
    all there is to try (Freeman and Shapira, 1975).
    """
    corners_N42 = np.asarray(corners_N42, np.float64).reshape(-1, 4, 2)
    if not len(corners_N42):
        return np.zeros((0, 5))
    sides_N62 = corners_N42[:, _PAIRS[:, 1]] - corners_N42[:, _PAIRS[:, 0]]
    angle_N6 = np.arctan2(sides_N62[..., 1], sides_N62[..., 0])
    axis_N62 = np.stack([np.cos(angle_N6), np.sin(angle_N6)], -1)
    normal_N62 = np.stack([-axis_N62[..., 1], axis_N62[..., 0]], -1)
    along_N64 = np.einsum("nkd,npd->nkp", axis_N62, corners_N42)
    across_N64 = np.einsum("nkd,npd->nkp", normal_N62, corners_N42)
    width_N6, height_N6 = np.ptp(along_N64, -1), np.ptp(across_N64, -1)
    # Two equal corners make no line; the others then suffice.
    area_N6 = np.where(np.abs(sides_N62).sum(-1) > 0, width_N6 * height_N6, np.inf)
    best = area_N6.argmin(1)
    n = np.arange(len(best))
    middle = [(v[n, best].max(1) + v[n, best].min(1)) / 2 for v in (along_N64, across_N64)]
    centre_N2 = axis_N62[n, best] * middle[0][:, None] + normal_N62[n, best] * middle[1][:, None]
    width_N, height_N, angle_N = (v[n, best] for v in (width_N6, height_N6, angle_N6))
    angle_N = (angle_N + np.where(height_N > width_N, np.pi, np.pi / 2)) % np.pi - np.pi / 2
    angle_N = np.where(angle_N < np.pi / 2, angle_N, -np.pi / 2)  # a hair below 0 modulo π rounds to π itself
    return np.column_stack([centre_N2, np.maximum(width_N, height_N), np.minimum(width_N, height_N), angle_N])
