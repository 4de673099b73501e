"""Scores to look at: a page of scored traces (``rfprm view``), and plots.

The page is one HTML file that needs no network. It is put together from ``page.html``,
``page.css``, ``trace.css``, ``trace.js``, ``columns.js`` and ``page.js``, which lie beside this
file.
"""
