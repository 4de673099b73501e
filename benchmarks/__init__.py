"""Compares rfprm_runtime with what people use today, on the same traces and weights in one run.

``python -m benchmarks.throughput``, ``latency``, ``search``, ``memory``, ``cold_start``;
docs/benchmarks.md says what each measures, and the results.
"""
