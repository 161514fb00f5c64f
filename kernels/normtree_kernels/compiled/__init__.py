"""What kernels are compiled by and made of: Numba's flags, machine code on disk, elements, lanes."""
