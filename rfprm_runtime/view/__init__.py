"""Looking at scores: a page of scored traces (``rfprm view``), and plots.

The page is one HTML file that needs no network. It is assembled from ``page.html``, ``page.css``,
``trace.css``, ``trace.js``, ``columns.js`` and ``page.js`` in this folder.
"""
