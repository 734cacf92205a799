"""The network in plain PyTorch: ``blocks.py`` (pieces), ``yolo12.py`` (how they are joined), ``layers.py`` (names)."""
