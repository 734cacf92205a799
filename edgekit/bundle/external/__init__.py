"""Models that other tools made: opened as a session, and examined when their answers are wrong.

| file | does |
|---|---|
| ``models.py`` | ONNX, OpenVINO and TorchScript files as a session with edgekit's roles |
| ``outputs.py`` | the one line that describes plain outputs: ``--outputs`` |
| ``referee.py`` | ``edgekit diagnose``: the first wrong thing in them |
| ``doubtful.py`` | what is diagnosed: a model, or the detections a program wrote |
| ``apart.py`` | how far two answers are from each other |
| ``parts.py`` | the same of masks and keypoints, and what faults make of those |
| ``faults.py`` | the faults that are looked for, each a change of the input or of the answer |
"""
