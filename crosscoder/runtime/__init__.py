"""Shared infrastructure: devices and precision, atomic file writes, processes, timing, interrupts."""
