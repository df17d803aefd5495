"""Pure train steps, the devices they run on, the loop around them, and its checkpoints."""
