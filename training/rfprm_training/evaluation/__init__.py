"""What a PRM is worth: on what was held out of its training, and on published sets.

Knows scores and figures; trains nothing but the folds of a cross-validation.
"""
