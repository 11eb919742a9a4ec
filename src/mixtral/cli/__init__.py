"""The command line: ``mixtral info | generate | chat | convert | train | bench``.

One file per command. ``main`` holds the app and turns every failure into one line and an exit
status; ``options`` holds what several commands share. Torch and the other heavy packages are
imported inside the functions that need them, so that ``--help`` and ``info`` answer at once; this
is the only package where that is done.
"""
