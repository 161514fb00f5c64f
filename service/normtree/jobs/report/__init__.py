"""What is told of a job that has ended."""
