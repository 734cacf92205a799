"""`edgekit gpu-check`: everything that needs an NVIDIA GPU, tried on one, and a report of what works.

    document = run(GpuOptions(minutes=10), Path("results.json"))
    document["steps"][0]["state"]            # 'works'

``plan.py`` lists the steps; each runs in a process of its own with its own time (``runner.py`` starts it, ``worker.py``
is it), and every single finding is written down when it is made (``findings.py``), so that a crash or a hang costs what
would have come after it in that step. ``survey.py`` looks at the machine first and refuses what cannot be checked;
``words.py`` says what was found. ``steps/`` holds one file a step.

Unchecked on hardware, like what it checks; the machinery is tested with steps that crash, hang and find wrong numbers.
"""
