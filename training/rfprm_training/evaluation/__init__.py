"""Measures a PRM on held-out training data and on published sets.

Knows scores and figures; trains nothing but the folds of a cross-validation.
"""
