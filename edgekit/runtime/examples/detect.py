"""One image through a bundle, and what was found drawn on it.

python -m edgekit.runtime.examples.detect BUNDLE street.jpg street-seen.jpg
"""

from __future__ import annotations

import sys

import edgekit


def main(bundle: str, image: str, out: str) -> None:
    with edgekit.load(bundle, conf=0.25) as model:
        result = model(image)[0]
        result.save(out)
    if result.probs is not None:
        sys.stdout.write(f"{result.names[result.top1]} {result.probs[result.top1]:.2f}\n")
    elif result.scores is not None:
        for name, score in zip(result.class_names, result.scores, strict=True):
            sys.stdout.write(f"{name} {score:.2f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
