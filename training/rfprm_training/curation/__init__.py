"""Raw traces in, traces worth labelling out.

Knows filters, near-duplicates and evaluation questions; knows no rewards. Needs the extra ``data``.
"""
