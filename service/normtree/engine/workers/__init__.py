"""What runs leaves: threads of this process, or Ray's workers."""
