"""Recorded updates: a format for what clients sent, its writer, and a reader of files that anybody may have made."""
