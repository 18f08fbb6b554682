"""Towers, quantiser, language models, and the checkpoint layout they share (rank 1: imports types and errors only)."""
