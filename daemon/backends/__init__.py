"""What turns a Plan into packet-filter state of the current network namespace, and reads it back."""
