"""Our own CPU kernels: the compiled libraries, and the weights they read.

``kernels.c`` is compiled when the package is built (see ``hatch_build.py``), once for each row of
``variants.py``; without a C compiler the package installs without them.
"""
