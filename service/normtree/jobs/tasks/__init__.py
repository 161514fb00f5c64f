"""A job's tasks: in which order, by whom, and how each is done."""
