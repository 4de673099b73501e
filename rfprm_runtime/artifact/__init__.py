"""The artifact folder: what its manifest says, and whether its files are the ones named there.

Knows formats and families; knows no network and no user text.
"""
