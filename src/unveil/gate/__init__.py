"""The gate: whether an audit stays within limits, for continuous integration."""
