"""What bodies are written in, one format a file."""
