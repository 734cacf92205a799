"""Do two models find the same things? What an application sees of both, objects paired, and those without a partner.

    found = compared(checkpoint_session, artifact, images, conf=0.25, margin=0.001)
    found["only_first"], found["pass"]

Both run as ``predict`` runs them: a checkpoint answers with every cell and class, an artifact with the candidates it
was built for. A list of candidates that is full, all of them above the confidence, may have left objects out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.metrics.matching import same_objects
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.results import Result
from edgekit.spec import Session

# Objects that may lack a partner: which of two boxes that overlap by just the threshold stays is a matter of rounding.
ALLOWED, SHARE = 1, 0.03


def compared(
    first: Session, second: Session, images: Sequence[np.ndarray], conf: float, margin: float
) -> dict[str, Any]:
    """What two models find on ``images`` (uint8 BGR ``[h, w, 3]``), each as ``predict`` runs it.

    Args:
        conf: confidence.
        margin: objects whose score is nearer to ``conf`` than this may be found by one alone.

    Returns:
        Of classifiers ``agreement``'s, of others ``matched``'s and ``pass``: ``allowed`` objects may be
        ``unexplained``, which is above the margin and without a partner. ``full`` counts images in which every
        candidate of one model is above ``conf``, ``cut_off`` the objects without a partner in those, which do not
        decide ``pass``; if there are any, ``warning`` says so.
    """
    options = Options(conf)
    pairs = [(_answer(first, image, options), _answer(second, image, options)) for image in images]
    every = [(left, right) for (left, _), (right, _) in pairs]
    if not every or every[0][0].probs is not None:
        return agreement(every)
    full = [(left, right) for (left, left_full), (right, right_full) in pairs if left_full or right_full]
    report = matched(every, conf + margin)
    cut_off = matched(full, conf + margin)["unexplained"]
    report["unexplained"] -= cut_off
    report["allowed"] = ALLOWED + int(SHARE * max(report["first"], report["second"]))
    report |= {"full": len(full), "cut_off": cut_off, "pass": report["unexplained"] <= report["allowed"]}
    if cut_off:
        report["warning"] = (
            f"in {len(full)} of {len(images)} images every candidate is above the confidence {conf:g}, and {cut_off} "
            f"objects are found by one of the two only (of {report['first']} and {report['second']}): crowds need more "
            "candidates; build with `candidates`"
        )
    return report


def _answer(session: Session, image: np.ndarray, options: Options) -> tuple[Result, bool]:
    """What is found, and whether the list of candidates was full."""
    session = session.fitting(*image.shape[:2])
    batch, geometries = Predictor(session, options).preprocess([image])
    outputs = session.run(batch)
    full = session.info.head == "topk" and bool((np.asarray(outputs["scores"][0]) > options.conf).all())
    return postprocess(outputs, session.info, geometries, options)[0], full


def matched(pairs: Sequence[tuple[Result, Result]], sure: float = 0.0) -> dict[str, Any]:
    """Objects of the two answers paired by label and overlap, best scores first, and how far pairs are apart.

    ``max_box_px`` is the largest difference of a coordinate in pixels of the original image (of a rotated box: of its
    centre and sides), ``max_score`` that of scores; ``only_first`` and ``only_second`` count objects without a partner,
    ``unexplained`` those of both with a score above ``sure``.
    """
    counts = dict.fromkeys(("first", "second", "matched"), 0)
    boxes, scores, keypoints = [0.0], [0.0], [0.0]
    lonely = [np.zeros(1)]
    for a, b in pairs:
        counts["first"], counts["second"] = counts["first"] + len(a), counts["second"] + len(b)
        found = same_objects(a, b)
        left = np.flatnonzero(found >= 0)
        right = found[left]
        counts["matched"] += len(left)
        places = (a.boxes, b.boxes) if a.boxes is not None else (a.rotated_boxes, b.rotated_boxes)
        assert a.scores is not None and b.scores is not None and places[0] is not None and places[1] is not None
        boxes.append(float(np.abs(places[0][left, :4] - places[1][right, :4]).max(initial=0.0)))
        scores.append(float(np.abs(a.scores[left] - b.scores[right]).max(initial=0.0)))
        if a.keypoints is not None and b.keypoints is not None:
            gap = np.abs(a.keypoints[left, :, :2] - b.keypoints[right, :, :2])
            keypoints.append(float(gap.max(initial=0.0)))
        lonely += [np.delete(a.scores, left), np.delete(b.scores, right)]
    unmatched = np.concatenate(lonely)
    report = {
        **counts,
        "only_first": counts["first"] - counts["matched"],
        "only_second": counts["second"] - counts["matched"],
        "max_box_px": max(boxes),
        "max_score": max(scores),
        "best_unmatched_score": float(unmatched.max()),
        "unexplained": int((unmatched > sure).sum()),
    }
    return report | ({"max_keypoint_px": max(keypoints)} if len(keypoints) > 1 else {})


def agreement(pairs: Sequence[tuple[Result, Result]]) -> dict[str, Any]:
    """Classifications: how often the likeliest class is the same, and the largest difference of a probability."""
    same = [a.top1 == b.top1 for a, b in pairs]
    gaps = [float(np.abs(a.probs - b.probs).max()) for a, b in pairs if a.probs is not None and b.probs is not None]
    return {"images": len(pairs), "same_top1": int(np.sum(same)), "max_probability": max(gaps, default=0.0)}
