"""The gain: the ratio of an update's length to the length that the assumed local training gives."""
