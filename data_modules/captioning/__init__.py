"""Sentences about training images: by rule, and by a captioning model."""
