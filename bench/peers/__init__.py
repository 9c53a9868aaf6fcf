"""What the native ops are measured against: idiomatic PyTorch, written to win."""
