"""ONNX graphs: ``export.py`` makes one from a network, ``rewrite.py`` applies the rules in ``rules/`` to it."""
