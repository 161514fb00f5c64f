"""Project weight tensors onto mixed-norm balls, as a service, a batch job or a call.

Importing this package loads nothing heavy: no Ray, no FastAPI, no Numba. The projection itself is
in `normtree_kernels`; what is here knows of requests, clusters and files.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
