"""Where a text says its answer: marks, statements, the last sentence."""
