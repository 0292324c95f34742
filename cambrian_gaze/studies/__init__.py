"""Comparisons on GazeBench over seeds: small models trained side by side, answers, intervals, a page."""
