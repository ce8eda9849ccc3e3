"""The tests: one folder a tier, and the lab that the tiers which need a kernel share."""
