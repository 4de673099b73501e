"""Right solutions in, examples with labelled steps out: errors, wordings, sums, sampled steps.

Knows texts and what is wrong with them; only ``sampling.model`` knows a network.
"""
