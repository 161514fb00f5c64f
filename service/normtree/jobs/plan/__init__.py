"""What a job will do, from headers alone: tensors, how they are cut, pieces of work."""
