"""CRAFT, Codebook RegulAted Fine-Tuning, and the methods it is compared with, as a Lightning experiment framework."""

__version__ = "0.1.0"
