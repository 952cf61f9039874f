"""The trainer: the hybrid model, its data, one flat file per stage, and the proxy training of candidates."""
