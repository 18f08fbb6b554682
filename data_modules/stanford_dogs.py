"""Stanford Dogs: 120 breeds, 20,580 pictures of ImageNet; 12,000 train and 8,580 test."""

from __future__ import annotations

from data_modules import labels
from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="stanford_dogs",
    title="Stanford Dogs",
    kind="classification",
    licence="non-commercial research (ImageNet terms)",
    citation="Khosla et al., Novel Dataset for Fine-Grained Image Categorization: Stanford Dogs, FGVC 2011",
    domain="dog",
    query="Which of these dog breeds is shown in the image?",
    labels=labels.STANFORD_DOGS,
)
