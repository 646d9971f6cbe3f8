"""Rules of losses, (dprediction,) from dvalues: a file a family, as in `funcnet.losses`."""
