"""Native CPU kernels, each with an equivalent in PyTorch."""
