"""Ten benchmarks as short-answer questions: synthetic (drawn), folders on disk, datasets of the hub."""
