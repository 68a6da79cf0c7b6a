"""Audits of recorded updates: what a real client sent is attacked as it is, with or without its pictures at hand."""
