"""Where images come from: each kind of input is a `Source` that names them in a fixed order."""
