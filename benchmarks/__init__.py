"""Everything that is measured, behind one door: `python -m benchmarks list | run NAME | tables | check`."""
