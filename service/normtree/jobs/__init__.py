"""Batch jobs: a checkpoint in, a projected checkpoint out, in one pass that can be killed and resumed."""
