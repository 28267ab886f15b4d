"""The report of a run or of several: their records become figures, charts and one HTML file."""
