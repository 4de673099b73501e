"""Tokenizers of models that come without a ``tokenizer.json``, made with the tokenizers library.

``folder`` decides what a model's folder holds, ``byte_level`` and ``sentencepiece`` build the two
kinds of tokenizer, ``model_proto``, ``added_tokens`` and ``gguf_fields`` read what others wrote,
and ``prefix_space`` keeps any of them from adding a space to a text. Knows no weights.
"""
