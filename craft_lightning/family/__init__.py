"""Building and measuring a family of frozen parts: where drawn pictures and surrogates meet."""
