"""Our own CPU kernels: the compiled library, and the weights it reads.

``kernels.c`` is compiled when the package is built (see ``hatch_build.py``), once for each kind of
processor; without a C compiler the package installs without them.
"""
