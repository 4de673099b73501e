"""Labelled examples in, a checkpoint out. Needs the extra ``train``.

Knows batches, losses and the optimiser, but not where labels come from.
"""

from rfprm_training import check_extras

check_extras()
