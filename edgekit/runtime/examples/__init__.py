"""Small programs to start from, each a file of its own; ``cpp/examples`` has the same ones in C++.

python -m edgekit.runtime.examples.detect BUNDLE street.jpg street-seen.jpg
"""
