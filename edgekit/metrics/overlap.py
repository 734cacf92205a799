"""How much two upright boxes, two poses or two masks overlap: what every matching starts from.

N predictions, M objects of the ground truth, P keypoints.

    iou_NM = box_overlap(predicted_N4, true_M4, crowd_M)
    oks_NM = keypoint_similarity(predicted_NP2, true_MP3, area_M, sigmas_P)
"""

from __future__ import annotations

import numpy as np

from edgekit.runtime.boxes import box_iou

# COCO's per-keypoint constants (cocodataset.org/#keypoints-eval), nose to right ankle.
COCO_SIGMAS = (
    np.array([0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89])
    / 10
)


def keypoint_sigmas(points: int) -> np.ndarray:
    """[P] COCO's constants for its 17 keypoints, else 1/P for each (no others are published for other sets)."""
    return COCO_SIGMAS if points == len(COCO_SIGMAS) else np.full(points, 1 / points)


def box_overlap(boxes_N4: np.ndarray, truth_M4: np.ndarray, crowd_M: np.ndarray) -> np.ndarray:
    """[N, M] intersection over union of xyxy boxes; against a crowd region, over the prediction's area (COCO)."""
    iou_NM = box_iou(boxes_N4, truth_M4)
    if crowd_M.any():
        area_N, area_M = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes_N4, truth_M4))
        inter_NM = iou_NM / (1 + iou_NM) * (area_N[:, None] + area_M)
        iou_NM = np.where(crowd_M, inter_NM / np.maximum(area_N, np.finfo(float).tiny)[:, None], iou_NM)
    return iou_NM


def mask_iou(masks_NA: np.ndarray, truth_MA: np.ndarray) -> np.ndarray:
    """[N, M] intersection over union of flattened masks of zeros and ones."""
    masks_NA, truth_MA = masks_NA.astype(np.float32), truth_MA.astype(np.float32)  # exact up to 2^24 pixels
    inter_NM = masks_NA @ truth_MA.T
    whole_NM = masks_NA.sum(1)[:, None] + truth_MA.sum(1) - inter_NM
    iou_NM: np.ndarray = inter_NM / np.maximum(whole_NM, 1)
    return iou_NM


def keypoint_similarity(
    points_NP2: np.ndarray, truth_MP3: np.ndarray, area_M: np.ndarray, sigmas_P: np.ndarray
) -> np.ndarray:
    """[N, M] object keypoint similarity over the labelled keypoints (cocodataset.org/#keypoints-eval).

    An object without any labelled keypoint is similar to nothing (0).
    """
    squared_NMP = ((points_NP2[:, None] - truth_MP3[None, :, :, :2]) ** 2).sum(-1)
    exponent_NMP = squared_NMP / (2 * (2 * sigmas_P) ** 2 * (area_M[:, None] + np.spacing(1)))
    seen_MP = truth_MP3[..., 2] > 0
    oks_NM: np.ndarray = (np.exp(-exponent_NMP) * seen_MP).sum(-1) / np.maximum(seen_MP.sum(-1), 1)
    return oks_NM
