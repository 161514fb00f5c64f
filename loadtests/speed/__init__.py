"""Speed-up curves, and the laws that fit them."""
