"""Peeling: from the pooled features of a network's end back to its maps, layer by layer, by linear algebra."""
