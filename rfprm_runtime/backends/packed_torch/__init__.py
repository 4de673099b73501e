"""The torch network over many rows at once, packed end to end, each after a past of its own.

Made for GPUs: nothing is padded, every launch covers all rows, and what rows have in common is
computed once. Knows token ids and pasts; knows no text and no scores.
"""

from rfprm_runtime.backends.packed_torch.backend import PackedTorchBackend
from rfprm_runtime.backends.packed_torch.pasts import TorchBlock, TorchPast

__all__ = ["PackedTorchBackend", "TorchBlock", "TorchPast"]
