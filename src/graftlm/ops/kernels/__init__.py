"""Triton kernels: fast twins for CUDA. Nothing here is imported on a machine without them."""
