"""Graph rewrites, one a file: pattern, check, replacement; the docstring is the before → after table."""
