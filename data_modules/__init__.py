"""Ten benchmarks as short-answer questions: drawn twins, folders on disk, hub datasets."""
