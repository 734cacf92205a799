"""What edgekit needs of the system it runs on: whole files, names, forks, homes, the processor, installed versions.

| file | does |
|---|---|
| ``atomic.py`` | writes a file whole or not at all |
| ``filenames.py`` | names that are no UTF-8, for people and for C libraries |
| ``forks.py`` | sessions in processes forked after loading |
| ``home.py`` | users without a home |
| ``silence.py`` | libraries that write to standard error |
| ``processor.py`` | what this processor computes otherwise than others |
| ``versions.py`` | versions of installed packages |
"""
