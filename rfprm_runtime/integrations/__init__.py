"""Process rewards inside RL stacks: translations of their signatures, nothing else."""
