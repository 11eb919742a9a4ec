"""How fast and how lean, measured: steps of the engine, loading, and a peer on the same weights.

A speed alone says little: on a shared machine the memory bandwidth moves by a factor of two within
minutes. Every number here therefore stands beside probes of the machine taken in the same seconds
(``probes``), and a comparison runs both engines in turn on the same weights, after a gate that
both compute the same thing (``steps``, ``peer``). ``results`` is the JSON that comes out, ``load``
measures start-up from a checkpoint folder in fresh processes, ``table`` prints for people.
"""
