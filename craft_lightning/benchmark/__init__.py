"""Tables of runs: a YAML spec becomes jobs, and jobs become results that are kept by what they depend on.

Nothing here imports torch or Lightning, so that planning, status and rendering start at once; the work itself happens
in processes of :mod:`.worker`, which are started by name.
"""
