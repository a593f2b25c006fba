"""The loop level: functions over buffers, structured loops, scalar and vector values."""
