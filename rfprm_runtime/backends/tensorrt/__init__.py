"""TensorRT engines, from either of its two packages.

Knows plans, profiles and the CUDA driver; needs no torch.
"""
