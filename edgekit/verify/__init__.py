"""Is it the same function, and as good: instruments that compare sessions, and the proof that a build makes of them.

| file | does |
|---|---|
| ``proof.py`` | the proof of a build, step by step |
| ``parity.py`` | outputs of two sessions, role by role, within what rounding explains |
| ``rounding.py`` ``rounded.py`` | what rounding may change, on which processor; a network as a precision rounds it |
| ``agreement.py`` | what two models find, object by object |
| ``stages.py`` | the first stage where two models part |
| ``accuracy.py`` | one score for any session: labels, else agreement with the float model |
"""
