"""Models of the Hub: what names them, and how their files get here. Needs the extra ``hub``.

Knows names, files and what may go wrong on the way; not what is in a file. Nothing that is fetched
is ever run.
"""
