"""From the straight line of one trial to whole audits, and where their results are kept."""
