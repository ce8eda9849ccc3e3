"""The built plugin as a process: alone with a scripted daemon, and in the chain with the real ones."""
