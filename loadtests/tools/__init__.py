"""What the load tests share: results, the machine, a service to load, what it holds."""
