"""Slow references for losses and assigners: numbers and loops, one object, one cell, one pixel at a time.

Written from the papers, with nothing shared with the library but its conventions.
"""

from __future__ import annotations

import math

import numpy as np

STRIDES = (8, 16, 32)


def cells(size: tuple[int, int]) -> list[tuple[float, float, int]]:
    """Centre x, y and stride of every cell."""
    return [
        ((column + 0.5) * s, (row + 0.5) * s, s)
        for s in STRIDES
        for row in range(size[0] // s)
        for column in range(size[1] // s)
    ]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cross_entropy(logit: float, target: float) -> float:
    p = sigmoid(logit)
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


def ciou(a: np.ndarray, b: np.ndarray, alpha: float | None = None) -> float:
    """Complete IoU; ``alpha`` freezes the weight of the aspect term."""
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    common = (right - left) * (bottom - top) if right > left and bottom > top else 0.0
    wa, ha, wb, hb = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = common / (wa * ha + wb * hb - common)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    centres = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    v = 4 / math.pi**2 * (math.atan2(wb, hb) - math.atan2(wa, ha)) ** 2
    if alpha is None:
        alpha = v / (1 - iou + v) if v > 0 else 0.0
    return iou - centres / diagonal - alpha * v


def gaussian(box: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    x, y, w, h, angle = box
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.array([x, y]), turn @ np.diag([w * w / 12 + variance, h * h / 12 + variance]) @ turn.T


def probiou(a: np.ndarray, b: np.ndarray, variance: float = 1e-2) -> float:
    """One minus the Hellinger distance, from matrices."""
    (ma, sa), (mb, sb) = gaussian(a, variance), gaussian(b, variance)
    mean, d = (sa + sb) / 2, ma - mb
    distance = d @ np.linalg.inv(mean) @ d / 8 + 0.5 * math.log(
        np.linalg.det(mean) / math.sqrt(np.linalg.det(sa) * np.linalg.det(sb))
    )
    return 1 - math.sqrt(max(1 - math.exp(-distance), 0))


def in_upright(box: np.ndarray, x: float, y: float) -> bool:
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return abs(x - cx) < max(box[2] - box[0], 16) / 2 and abs(y - cy) < max(box[3] - box[1], 16) / 2


def in_rotated(box: np.ndarray, x: float, y: float) -> bool:
    """Turns the point about the box's centre, back into the box's frame."""
    turned = complex(x - box[0], y - box[1]) * complex(math.cos(box[4]), -math.sin(box[4]))
    return abs(turned.real) < max(box[2], 16) / 2 and abs(turned.imag) < max(box[3], 16) / 2


def assign(objects, image, classes, logits, predicted, size, inside, overlap, topk=10):
    """{(image, cell): (object, score)} by loops.

    objects [M, ...], predicted [B, N, ...]; ``inside(object, x, y)``, ``overlap(predicted, object)``.
    """
    centres = cells(size)
    overlaps, metrics, claims = {}, {}, {}
    for m, box in enumerate(objects):
        b = int(image[m])
        for n, (x, y, _) in enumerate(centres):
            if inside(box, x, y):
                overlaps[m, n] = max(overlap(predicted[b, n], box), 0.0)
                metrics[m, n] = sigmoid(logits[b, int(classes[m]), n]) ** 0.5 * overlaps[m, n] ** 6
        held = [(m, n) for n in range(len(centres)) if (m, n) in metrics]
        mine = sorted(held, key=lambda pair: (-metrics[pair], pair[1]))
        for pair in mine[:topk]:
            if metrics[pair] > 1e-40:
                claims.setdefault((b, pair[1]), []).append(m)
    owner = {}
    for (b, n), claimants in claims.items():
        if len(claimants) > 1:
            claimants = [m for m in range(len(objects)) if int(image[m]) == b and (m, n) in overlaps]
            claimants.sort(key=lambda m, n=n: (-overlaps[m, n], m))
        owner[b, n] = claimants[0]
    result = {}
    for (b, n), m in owner.items():
        own = [(m, cell) for (_, cell), other in owner.items() if other == m]
        best, top = max(metrics[pair] for pair in own), max(overlaps[pair] for pair in own)
        result[b, n] = (m, metrics[m, n] / (best + 1e-9) * top)
    return result


def focal(logits_4K: np.ndarray, distances: np.ndarray) -> float:
    """Distribution focal loss, mean of four sides."""
    total = 0.0
    for side in range(4):
        p = softmax(logits_4K[side])
        d = min(max(float(distances[side]), 0.0), 14.99)
        low = int(d)
        total -= (low + 1 - d) * math.log(p[low]) + (d - low) * math.log(p[low + 1])
    return total / 4


def sides(distances_KN: np.ndarray, n: int) -> np.ndarray:
    """Expected distances of a cell, in cells."""
    return np.array([softmax(row) @ np.arange(16) for row in distances_KN[:, n].reshape(4, 16)])


def upright(distances: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Decoded boxes [B, N, 4]."""
    out = np.zeros((len(distances), distances.shape[2], 4))
    for b in range(len(distances)):
        for n, (x, y, s) in enumerate(cells(size)):
            left, top, right, bottom = sides(distances[b], n) * s
            out[b, n] = x - left, y - top, x + right, y + bottom
    return out


def rotated(distances: np.ndarray, angles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Decoded rotated boxes [B, N, 5] in pixels."""
    out = np.zeros((len(distances), distances.shape[2], 5))
    for b in range(len(distances)):
        for n, (x, y, s) in enumerate(cells(size)):
            left, top, right, bottom = sides(distances[b], n) * s
            angle = float(angles[b, 0, n])
            move = complex((right - left) / 2, (bottom - top) / 2) * complex(math.cos(angle), math.sin(angle))
            out[b, n] = x + move.real, y + move.imag, left + right, top + bottom, angle
    return out
