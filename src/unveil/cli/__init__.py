"""The command line: commands, audit files, progress and printed results."""
