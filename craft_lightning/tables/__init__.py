"""Tables of runs: a YAML spec becomes nodes, a pool of workers computes them, results are rendered.

Nothing here imports torch or Lightning, so that planning, status and rendering start at once; the work itself happens
in processes of :mod:`craft_lightning.worker`, which are started by name.
"""

from craft_lightning.tables.verbs import main

__all__ = ["main"]
