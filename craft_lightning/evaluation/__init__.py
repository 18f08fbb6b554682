"""What an evaluation asks, decodes, counts and stores."""
