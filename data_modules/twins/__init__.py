"""The pocket world: ten drawn twins of the ten benchmarks."""
