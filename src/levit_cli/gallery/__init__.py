"""Show the results of ``levit predict`` as one page."""
