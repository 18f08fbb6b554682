"""IconQA: questions about abstract diagrams.

The paper uses the sub-task with text choices (18,946 training questions).
"""

from __future__ import annotations

from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="iconqa",
    title="IconQA",
    kind="question",
    licence="CC BY-NC-SA",
    citation=(
        "Lu et al., IconQA: A New Benchmark for Abstract Diagram Understanding and Visual Language "
        "Reasoning, NeurIPS 2021 Datasets and Benchmarks"
    ),
    domain="diagram",
)
