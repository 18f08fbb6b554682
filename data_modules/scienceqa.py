"""ScienceQA: school science with two to five text choices; records without a picture are left out."""

from __future__ import annotations

from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="scienceqa",
    title="ScienceQA",
    kind="question",
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Lu et al., Learn to Explain: Multimodal Reasoning via Thought Chains for Science Question "
        "Answering, NeurIPS 2022"
    ),
    domain="science diagram",
)
