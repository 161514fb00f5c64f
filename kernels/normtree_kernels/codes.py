"""The registry of norms as kernels see it: a small integer each, one line a norm."""

L1, L2, LINF = 0, 1, 2

CODES = {"l1": L1, "l2": L2, "linf": LINF}
