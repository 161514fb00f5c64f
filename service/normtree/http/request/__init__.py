"""A request with tensors: what it asks for, its body, the work, and its answer."""
