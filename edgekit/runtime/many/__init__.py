"""Predictions of more images than one process or one sitting can do: listed lazily, shared out, written in parts that
are there whole or not at all, and joined into one output that does not depend on how the work was divided.

| file | what it does |
|---|---|
| ``options`` | what can be asked for |
| ``listing`` | every image of the sources in one fixed order: files, folders, lists, archives, object stores |
| ``shards`` | which of them are whose, and that nobody else does the same |
| ``record`` | which model and settings results are of |
| ``parts`` | the files that a run leaves, and where it goes on |
| ``formats`` | parts and outputs as JSON lines, Parquet, COCO or text |
| ``work`` | the loop |
| ``merge`` | many shards' parts into one output |
| ``tiles``, ``tracks``, ``crops`` | large pictures in tiles, objects followed, objects cut out |
"""
