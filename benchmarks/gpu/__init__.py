"""What the packed torch backend does on a GPU, beside transformers: parity, speed, prefixes."""
