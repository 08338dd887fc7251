"""What this computer is and has installed: devices, GPU, environment, load, doctor."""
