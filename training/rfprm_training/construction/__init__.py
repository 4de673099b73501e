"""Right solutions in, examples with labelled steps out: errors, wordings, made-up problems, sampled
steps.

Knows texts and their errors; only ``sampling.line_sampler`` knows a network.
"""
