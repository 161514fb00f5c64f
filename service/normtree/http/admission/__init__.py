"""When a request may begin: the queue for memory, and what each client may use."""
