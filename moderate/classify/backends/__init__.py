"""What runs a model: one interface, torch as the reference, OpenVINO for CPUs."""
