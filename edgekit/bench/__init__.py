"""Speed, measured so that it can be believed.

``clock`` times contestants side by side, ``watch`` says whether the machine was quiet meanwhile, ``machine``
describes it, ``cold`` times the first call of a fresh process, ``throughput`` counts items per second, ``gate``
compares with older results, ``intervals`` holds the statistics. All need numpy and the standard library only.
"""
