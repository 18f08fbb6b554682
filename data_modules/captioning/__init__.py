"""Sentences about training pictures: by rule, and by a captioning model."""
