"""Labelled examples in, a checkpoint out. Needs the extra ``train``.

Knows batches, losses and the optimiser; knows nothing of how labels were found.
"""

from rfprm_training import check_extras

check_extras()
