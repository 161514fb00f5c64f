"""What is sent: flows, mixed loads, jobs, and when."""
