"""The command line. Needs the extra ``cli``.

Knows options, files and terminals; everything it does can be called without it.
"""
