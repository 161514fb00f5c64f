"""What the Open Inference Protocol adds: models, and clients' shared memory."""
