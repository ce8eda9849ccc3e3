"""What runs inside a virtual machine: `python -m tests.vm.guest FOLDER`."""
