"""Several hosts: real ones with a wire between them, and a thousand simulated."""
