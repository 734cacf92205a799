"""Names of files for libraries that take UTF-8 only: OpenCV crashes on others, ONNX Runtime refuses them. Standard
library only.

with utf8_name(Path(os.fsdecode(b"bl\\xe4.avi"))) as name:
    capture = cv2.VideoCapture(name)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """``path`` itself where its bytes are UTF-8, else a link to it that is there until the block ends; the suffix is
    kept as far as it is ASCII."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"link{path.suffix if path.suffix.isascii() else ''}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)
