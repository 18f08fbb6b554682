"""Synthetic datasets: a drawn stand-in for each of the ten benchmarks. The drawings themselves lie in ``drawings/``."""
