"""Parts of a tensor: what is asked of each, and what their answers come to together."""
