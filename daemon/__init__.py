"""The node daemon: watches policies and programs each enrolled interface inside its own network namespace."""
