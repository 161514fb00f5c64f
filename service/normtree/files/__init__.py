"""Files: of tensors, in folders that others can touch, and sealed."""
