"""The network in plain PyTorch: ``blocks.py`` (pieces) and ``yolo12.py`` (how they are joined)."""
