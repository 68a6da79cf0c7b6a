"""From a received update alone to the obfuscation that made it, a file for each kind of evidence."""
