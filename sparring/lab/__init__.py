"""The lab: named studies that repeat the tables and figures of papers, each a grid of runs with a record of its own."""
