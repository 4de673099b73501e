"""Process rewards inside RL stacks: adapters to their signatures, nothing else."""
