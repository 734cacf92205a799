"""Labelled images: reading sets in three formats for five tasks, and checking them. numpy, OpenCV and YAML only.

    from edgekit.data import open_dataset
    dataset = open_dataset("data.yaml", "detect", "val")

Formats: ``text.py`` (``data.yaml`` with normalised text labels), ``coco.py`` (COCO JSON), ``folders.py`` (a folder per
class). What one row of a task's text labels means is the task's business: ``tasks/<task>/labels.py``.
"""

from edgekit.data.account import account_of
from edgekit.data.check import check
from edgekit.data.dataset import Dataset, Sample
from edgekit.data.issues import Issue
from edgekit.data.open import open_dataset
from edgekit.data.options import LabelOptions
from edgekit.metrics.labels import Labels

__all__ = ["Dataset", "Issue", "LabelOptions", "Labels", "Sample", "account_of", "check", "open_dataset"]
