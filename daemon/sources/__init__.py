"""Where cluster objects come from; every source gives the same updates."""
