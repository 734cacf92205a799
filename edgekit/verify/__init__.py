"""Is it the same function: what a build proves, what ``edgekit compare`` says, what other implementations are held to.

| file | does |
|---|---|
| ``proof.py`` | the proof of a build, step by step |
| ``parity.py`` | outputs of two sessions, role by role, within what rounding explains |
| ``rounding.py`` | what rounding may change, on which processor: facts and bounds |
| ``agreement.py`` | what two models find, object by object |
| ``stages.py`` | the first stage where two models part |
| ``compare.py`` | all of it for any two models |
| ``conformance.py`` | bundles, images and the results they must give |
"""
