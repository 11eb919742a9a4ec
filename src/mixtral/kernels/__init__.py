"""Pure functions on tensors, with no model in sight.

``reference`` is the specification in plain PyTorch; every other module here is a faster way to the
same numbers and is tested against it. ``cpu`` holds the C++ kernels.
"""
