"""What every command stands on: devices and precision, files written whole, processes, timing, interrupts."""
