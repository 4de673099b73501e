"""Traces that grow step by step, and branch, without paying for their past twice."""
