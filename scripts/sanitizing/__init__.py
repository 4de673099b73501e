"""What runs under the sanitizers: see scripts/sanitize_kernels.py."""
