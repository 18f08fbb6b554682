"""Stanford Cars: 196 models; 8,144 training and 8,041 test pictures."""

from __future__ import annotations

from data_modules import labels
from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="stanford_cars",
    title="Stanford Cars",
    kind="classification",
    licence="non-commercial research",
    citation="Krause et al., 3D Object Representations for Fine-Grained Categorization, 3dRR 2013",
    domain="car",
    query="Which of these cars is shown in the image?",
    labels=labels.STANFORD_CARS,
)
