"""Ours and what people use today, side by side: same traces, same weights, one run.

``python -m benchmarks.throughput``, ``latency``, ``search``, ``memory``, ``cold_start``; what each
measures and what it found is in docs/benchmarks.md.
"""
