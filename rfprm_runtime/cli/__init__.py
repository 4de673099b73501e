"""The command line. Needs the extra ``cli``.

Knows options, files and terminals. Everything it does can also be called from Python.
"""
