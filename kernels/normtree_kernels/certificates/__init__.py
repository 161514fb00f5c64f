"""What can be said of a projection afterwards, from the tensor and the result alone."""
