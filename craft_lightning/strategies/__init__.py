"""How a run is laid out over devices: chosen from shapes and memory, before anything is allocated."""
