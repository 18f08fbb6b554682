"""Prompts, options and replies as text."""
