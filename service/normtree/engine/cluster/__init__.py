"""A Ray cluster, its driver and the processes in it, as the service sees them."""
