"""OCR-VQA: title, author and genre of book covers, open answers. The paper trains on 30k of its 166k images."""

from __future__ import annotations

from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="ocrvqa",
    title="OCR-VQA",
    kind="question",
    licence="not stated by the authors; cover images are from Amazon",
    citation="Mishra et al., OCR-VQA: Visual Question Answering by Reading Text in Images, ICDAR 2019",
    domain="book cover",
)
