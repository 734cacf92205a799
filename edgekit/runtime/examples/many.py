"""Several streams, one model: each source has a thread of its own, the compiled model is there once.

python -m edgekit.runtime.examples.many BUNDLE north.mp4 south.mp4 rtsp://camera/3
"""

from __future__ import annotations

import sys
import threading
from collections import Counter

import edgekit
from edgekit import EdgekitError
from edgekit.runtime.predictor import Predictor


def main(bundle: str, *sources: str) -> None:
    with edgekit.load(bundle, conf=0.25, streams=2) as model:
        threads = [threading.Thread(target=watch, args=(model, source)) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def watch(model: Predictor, source: str) -> None:
    """Count what one source shows; its troubles are not the others'."""
    seen: Counter[str] = Counter()
    try:
        with model.stream(source, workers=1) as answers:
            for _, result in answers:
                seen.update(result.class_names)
            sys.stdout.write(f"{source}: {answers.answered} frames, {dict(seen.most_common(5))}\n")
    except EdgekitError as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
