"""What methods share below their contract."""
