"""What can be told of a received update without the private batch: a fingerprint of its obfuscation."""
