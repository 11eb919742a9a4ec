"""How fast and how lean, measured: steps of the engine, loading, and peers on the same weights.

A speed alone says little: on a shared machine the memory bandwidth moves by a factor of two within
minutes. Every number here therefore stands beside probes of the machine taken in the same seconds
(``probes``), and a comparison runs the engines in turn on equal weights (``session``, ``steps``),
after a gate that all compute the same thing (``gate``). ``peer`` is transformers, ``llama_cpp`` is
llama.cpp, ``moe`` times the experts of a layer alone, ``load`` measures start-up from a checkpoint
in fresh processes, ``weights`` and ``counts`` say what a step must read and compute. ``results`` is
the JSON that comes out, ``table`` prints for people.
"""
