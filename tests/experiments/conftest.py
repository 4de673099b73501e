"""What tests of experiments share with those of training."""

from tiny_runs import tiny_base, tiny_config, tiny_data, write_config

__all__ = ["tiny_base", "tiny_config", "tiny_data", "write_config"]
