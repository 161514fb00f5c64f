"""The engine: plans from shapes, tensors in shared memory, the projection tree on threads or on Ray, and its timing."""
