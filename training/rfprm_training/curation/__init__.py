"""Raw traces in, traces worth labelling out.

Knows filters, near-duplicates and evaluation questions, no rewards. Needs the extra ``data``.
"""
