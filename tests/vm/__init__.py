"""The same rules on stock distribution kernels, each booted in a virtual machine (see `machine`)."""
