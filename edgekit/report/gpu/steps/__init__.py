"""One file a step of ``gpu-check``, each with ``run(job)``; ``plan.py`` has their order. Unchecked on hardware."""
