"""A home directory where there is none, as in a container that runs as a user the system does not know. Standard
library only.

ensure_home()
import openvino          # its telemetry asks for the home directory, and fails without
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Let HOME be the temporary folder where neither it nor the user's entry says another."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
