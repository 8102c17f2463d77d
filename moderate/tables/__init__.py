"""Tables from files of anyone: read by processes that may do nothing but that."""
