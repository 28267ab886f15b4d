"""The machine that a process runs on: cores, devices, memory, signals, log files."""
