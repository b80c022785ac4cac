"""How a step runs on a device and on many: distributed engines, the optimizer step, schedules, the launch check."""
